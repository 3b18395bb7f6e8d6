"""What a study gained against the one before it: the change of Top-1, with an interval.

Where both asked the same held-out photos, these are compared photo by photo, which takes away what
makes one photo harder than another; where they did not, the studies are drawn apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from synth_pipeline.bootstrap import accuracy, drawn, interval
from synth_pipeline.scores import true_ranks
from synth_pipeline.seeds import derived_seed

#: With fewer of the photos in common, those in common stand for neither study.
_ENOUGH_IN_COMMON = 0.5

OUTCOMES = pa.schema(
    [
        ("backbone", pa.string()),
        ("regime", pa.string()),
        ("scale", pa.int32()),
        ("fold", pa.int32()),
        ("case_id", pa.string()),
        ("class_id", pa.string()),
        ("right", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Gain:
    """The change of one regime's Top-1, shares from -1 to 1.

    Attributes:
        before, now: Top-1 of the regime's best run in each study, on the photos compared.
        low, high: 95 % interval of the change.
        photos: held-out photos compared; of the newer study where they are not the same.
        paired: whether they are the same photos.
    """

    regime: str
    before: float
    now: float
    change: float
    low: float
    high: float
    photos: int
    paired: bool


def outcomes(predictions: pa.Table) -> pa.Table:
    """Of each run, fold and photo whether the first guess was right; a tie is wrong.

    Args:
        predictions: of `evaluation`, any number of runs that know the same classes.
    """
    probabilities_RK = np.stack(predictions["probabilities"].to_numpy())
    true_R = predictions["true_index"].to_numpy()
    ranks_R = true_ranks(probabilities_RK[None], true_R)[0]
    names = [name for name in OUTCOMES.names if name != "right"]
    columns = [*(predictions[name].combine_chunks() for name in names), pa.array(ranks_R == 1)]
    return pa.Table.from_arrays(columns, names=OUTCOMES.names).cast(OUTCOMES)


def gains(before: pa.Table, now: pa.Table, *, seed: int) -> list[Gain]:
    """The change of every regime that both studies have, in the newer one's order.

    Each study's best run of a regime is taken, as in the report's headline. The interval
    (`bootstrap`) draws the same photos for both studies where they share them.

    Args:
        before: `outcomes` of the older study.
        now: of the newer one.
        seed: of the bootstrap.
    """
    old, new = _best(before), _best(now)
    return [_gain(regime, old[regime], new[regime], seed) for regime in new if regime in old]


def _gain(
    regime: str, old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], seed: int
) -> Gain:
    rng = np.random.default_rng(derived_seed(seed, "gain", regime))
    common = [photo for photo in new if photo in old]
    paired = len(common) >= _ENOUGH_IN_COMMON * min(len(old), len(new))
    old_FN = np.stack([old[photo] for photo in (common if paired else old)], axis=1)
    new_FN = np.stack([new[photo] for photo in (common if paired else new)], axis=1)
    new_BN = drawn(rng, new_FN.shape[1])
    old_BN = new_BN if paired else drawn(rng, old_FN.shape[1])
    low, high = interval(rng, accuracy(new_FN, new_BN), accuracy(old_FN, old_BN))
    return Gain(
        regime=regime,
        before=float(old_FN.mean()),
        now=float(new_FN.mean()),
        change=float(new_FN.mean() - old_FN.mean()),
        low=low,
        high=high,
        photos=new_FN.shape[1],
        paired=paired,
    )


def _best(table: pa.Table) -> dict[str, dict[str, np.ndarray]]:
    """By regime, its best run: photo to (F,) whether each fold was right.

    A photo is its case with its class, so that one whose diagnosis was corrected is another.
    """
    runs: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in table.to_pylist():
        run = runs.setdefault((row["regime"], row["backbone"], row["scale"]), {})
        run.setdefault(f"{row['case_id']} {row['class_id']}", []).append(float(row["right"]))
    best: dict[str, dict[str, np.ndarray]] = {}
    for (regime, *_), photos in runs.items():
        as_arrays = {photo: np.array(right) for photo, right in photos.items()}
        if regime not in best or _mean(as_arrays) > _mean(best[regime]):
            best[regime] = as_arrays
    return best


def _mean(photos: Mapping[str, np.ndarray]) -> float:
    return float(np.mean([right.mean() for right in photos.values()]))
