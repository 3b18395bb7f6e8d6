"""Whether more synthetic images still help: the largest scale against the best one.

Accuracy that falls at the end of the curve says that what was added last is poor or redundant. Both
runs were asked about the same photos, so they are compared photo by photo, which leaves out what
makes one photo harder than another.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from synth_pipeline.bootstrap import accuracy, drawn, interval
from synth_pipeline.seeds import derived_seed

SCALE_CHANGES = pa.schema(
    [
        ("backbone", pa.string()),
        ("regime", pa.string()),
        ("best_images", pa.int32()),
        ("largest_images", pa.int32()),
        ("change", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


def scale_changes(
    runs: Sequence[tuple[Mapping[str, Any], np.ndarray]], seed: int
) -> list[dict[str, Any]]:
    """One row for each backbone and regime with several scales.

    The change is the largest scale's Top-1 less the best one's, a share from -1 to 0, and 0 where
    the largest is the best. The interval (`bootstrap`) knows nothing of the best having been
    chosen as the best, which makes the change look worse than it is.

    Args:
        runs: of each what names it (`backbone`, `regime`, `scale`, `images`), and (F, N) whether
            each fold gets each photo right; the photos of all are the same.
        seed: of the bootstrap.
    """
    curves: dict[tuple[str, str], list[tuple[Mapping[str, Any], np.ndarray]]] = {}
    for told, right_FN in runs:
        if told["scale"] is not None:
            curves.setdefault((told["backbone"], told["regime"]), []).append((told, right_FN))
    rows = []
    for (backbone, regime), curve in curves.items():
        if len(curve) < 2:
            continue
        largest, largest_FN = max(curve, key=lambda run: run[0]["scale"])
        # Of equals the larger: what was added did no harm.
        best, best_FN = max(curve, key=lambda run: (run[1].mean(), run[0]["scale"]))
        rng = np.random.default_rng(derived_seed(seed, "scale change", backbone, regime))
        low = high = 0.0
        if largest is not best:
            # The same photos are drawn for both.
            photos_BN = drawn(rng, largest_FN.shape[1])
            low, high = interval(rng, accuracy(largest_FN, photos_BN), accuracy(best_FN, photos_BN))
        rows.append(
            {
                "backbone": backbone,
                "regime": regime,
                "best_images": best["images"],
                "largest_images": largest["images"],
                "change": float(largest_FN.mean() - best_FN.mean()),
                "low": low,
                "high": high,
            }
        )
    return rows
