"""How a recogniser does class by class on few photos each: recall with an interval, confusion."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synth_pipeline.comparison import right_together
from synth_pipeline.scores import unpacked

#: Of the normal distribution, for 95 %.
_Z = 1.959964


def of_run(predictions: pa.Table, run: Mapping[str, Any]) -> pa.Table:
    """The rows of one run.

    Args:
        predictions: of all runs, as `predictions.parquet` has them.
        run: its backbone, regime and scale.
    """
    wanted = pc.and_(
        pc.equal(predictions["backbone"], run["backbone"]),
        pc.equal(predictions["regime"], run["regime"]),
    )
    scale = predictions["scale"]
    same = pc.is_null(scale) if run["scale"] is None else pc.equal(scale, run["scale"])
    return predictions.filter(pc.and_(wanted, same))


def recalls(table: pa.Table, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By class with held-out photos: how many its folds together get right.

    Args:
        table: of one run.
        classes: in the order of the head's outputs.

    Returns:
        `photos`, `right`, `low` and `high` of the 95 % interval (Wilson 1927), and `taken_for`: the
        class that wrong guesses name most often, the first by name of equals, none without any.
    """
    probabilities_FNK, true_N, _ = unpacked(table)
    right_N = right_together(probabilities_FNK, true_N)
    guess_N = probabilities_FNK.mean(0).argmax(1)
    found = {}
    for number in sorted(set(true_N.tolist())):
        own = true_N == number
        wrong = Counter(guess_N[own & (guess_N != number)].tolist())
        photos, right = int(own.sum()), int(right_N[own].sum())
        low, high = wilson(right, photos)
        taken_for = min(wrong, key=lambda place: (-wrong[place], place)) if wrong else None
        found[classes[number]] = {
            "photos": photos,
            "right": right,
            "low": low,
            "high": high,
            "taken_for": None if taken_for is None else classes[taken_for],
        }
    return found


def confusion(table: pa.Table, classes: int) -> np.ndarray:
    """(K, K) how many photos of each class (rows) its folds together take for each (columns).

    Args:
        table: of one run.
        classes: number of classes.
    """
    probabilities_FNK, true_N, _ = unpacked(table)
    counts_KK = np.zeros((classes, classes), np.int64)
    np.add.at(counts_KK, (true_N, probabilities_FNK.mean(0).argmax(1)), 1)
    return counts_KK


def wilson(right: int, photos: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927): it is no point where all or none are right.

    Args:
        right: how many of them.
        photos: at least one.
    """
    share, z2 = right / photos, _Z**2
    middle = share + z2 / (2 * photos)
    half = _Z * sqrt(share * (1 - share) / photos + z2 / (4 * photos**2))
    whole = 1 + z2 / photos
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)
