"""Landmarks of many images, ours against a plain loop, side by side; and whether memory grows.

    python -m benchmarks.landmarks

About two minutes on two cores. The plain loop opens a picture, finds one face with MediaPipe's
landmarker and keeps its points, picture after picture; ours also counts further faces, asks for the
detector's confidence, pads tight crops, and writes the table. The last line is JSON:

    ratio               images per second, ours over the plain loop's: median of five rounds in turn
    images_per_s        ours
    memory_growth_mb    resident memory after 2,000 images over that after 400 (ours)
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from synth_pipeline import landmarks
from synth_pipeline.models import face_landmarker_path
from synth_pipeline.offline import offline_worker
from synth_pipeline.phantom.dataset import make_dataset

ROUNDS = 5
CLASSES, EACH = 20, 20
IMAGES_FOR_MEMORY = 2000


def main() -> None:
    """Measure and print."""
    model = face_landmarker_path()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_dataset(
            folder / "phantoms",
            classes=CLASSES,
            per_class=EACH,
            test_per_class=0,
            size_px=256,
            seed=5,
            mesh_path=model,
        )
        files = sorted((folder / "phantoms" / "images").rglob("*.png"))
        plain_s, ours_s = [], []
        for number in range(ROUNDS):
            plain_s.append(_plain(files, model))
            ours_s.append(_ours(files, model, folder / str(number)))
            print(
                f"round {number + 1}: {len(files) / plain_s[-1]:.1f} and "
                f"{len(files) / ours_s[-1]:.1f} images/s",
                file=sys.stderr,
                flush=True,
            )
        before_mb = _resident_mb()
        _ours((files * IMAGES_FOR_MEMORY)[:IMAGES_FOR_MEMORY], model, folder / "many")
        growth_mb = _resident_mb() - before_mb
    ratios = [plain / ours for plain, ours in zip(plain_s, ours_s, strict=True)]
    figures = {
        "ratio": statistics.median(ratios),
        "images_per_s": len(files) / statistics.median(ours_s),
        "memory_growth_mb": growth_mb,
    }
    print(json.dumps(figures))


def _plain(files: Sequence[Path], model: Path) -> float:
    """Seconds of the loop that people write."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    def work() -> float:
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model)), num_faces=1
        )
        begun_s = time.perf_counter()
        with vision.FaceLandmarker.create_from_options(options) as landmarker:
            kept = []
            for path in files:
                with Image.open(path) as opened:
                    pixels = np.asarray(opened.convert("RGB"))
                found = landmarker.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels))
                if found.face_landmarks:
                    kept.append(np.array([(p.x, p.y, p.z) for p in found.face_landmarks[0]]))
        return time.perf_counter() - begun_s

    # Nothing phones home, not even from a yardstick.
    with offline_worker() as worker:
        return worker.submit(work).result()


def _ours(files: Sequence[Path], model: Path, out_dir: Path) -> float:
    out_dir.mkdir()
    begun_s = time.perf_counter()
    landmarks.run(
        [(str(number), path) for number, path in enumerate(files)],
        model=model,
        out_dir=out_dir,
        class_id="phantoms",
        require_face=True,
    )
    return time.perf_counter() - begun_s


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
