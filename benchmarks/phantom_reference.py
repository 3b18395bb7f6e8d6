"""Reference figures of `phantom-20` and `phantom-103`: nearest prototypes, and no training.

    python -m benchmarks.phantom_reference

About three minutes on two cores. The last line is JSON: for each benchmark the Top-1 of its
held-out phantoms on true shape (the upper bound), on detected landmarks (`mesh`, `five_point`) and
on pixels, with chance and the number of held-out phantoms.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from synth_pipeline.models import face_landmarker_path
from synth_pipeline.phantom.reference import reference_figures
from synth_pipeline.phantom.sets import BENCHMARKS, TRUTH_SHA256
from synth_pipeline.progress import Throttled


def main() -> None:
    """Make each benchmark in a temporary folder, measure it, and print the figures."""
    model = face_landmarker_path()
    figures = {}
    for name, wanted in BENCHMARKS.items():
        progress = Throttled(lambda text: print(text, file=sys.stderr, flush=True), name)
        with tempfile.TemporaryDirectory() as scratch:
            made, found = Path(scratch) / "set", Path(scratch) / "landmarks"
            wanted.make(made, mesh_path=model, progress=progress)
            truth = hashlib.sha256((made / "truth.jsonl").read_bytes()).hexdigest()
            assert truth == TRUTH_SHA256[name], f"{name} is not the set that its figures are of"
            found.mkdir()
            figures[name] = reference_figures(
                made, landmark_model=model, scratch=found, progress=progress
            )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
