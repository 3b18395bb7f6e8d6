"""Choose hyper-parameters by cross-validation on a recogniser's own training images.

Every point of the declared grid is trained on every fold, and judged by the fold's validation
images; the held-out photos are not known here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline import checkpoints, training
from synth_pipeline.config import Grid, RecognitionConfig
from synth_pipeline.errors import StageError
from synth_pipeline.fold_training import LossError
from synth_pipeline.picture_store import PictureStore
from synth_pipeline.progress import Progress, silent
from synth_pipeline.recognition_data import Example
from synth_pipeline.store import canonical_json

CHOSEN = "chosen.json"


def run(
    config: RecognitionConfig,
    *,
    backbone: str,
    classes: Sequence[str],
    examples: Sequence[Example],
    seed: int,
    out_dir: Path,
    pictures: PictureStore | None = None,
    work_dir: Path | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `tuning.parquet`, one row for each point and fold, and `chosen.json`.

    The point with the highest mean validation accuracy is chosen; of equal ones, the one with the
    lower mean validation loss. A point at which the loss of a fold explodes is not chosen; that
    fold's loss and accuracy are null.

    Args:
        config: with a grid.
        backbone: as of `training.run`, and so are `classes`, `examples`, `seed` and `pictures`.
        out_dir: an empty folder.
        work_dir: a folder for what is done so far; run again with the same one to go on.
        progress: told after each fold of each point.

    Returns:
        How many trainings there were, and the chosen point's mean validation accuracy.

    Raises:
        InputError: as of `training.run`.
        StageError: the loss explodes at every point.
    """
    kept = work_dir / "scores.json" if work_dir else None
    candidates = config.points()
    names = [canonical_json([p, f]).decode() for p in candidates for f in range(config.folds)]
    known = _known(kept, names) if kept else {}
    rows = []
    for number, point in enumerate(candidates):
        settings = config.model_copy(update={**point, "grid": Grid()})
        for fold in range(config.folds):
            name = canonical_json([point, fold]).decode()
            if name not in known:
                prepared = training.prepared(
                    settings,
                    backbone=backbone,
                    classes=classes,
                    examples=examples,
                    fold=fold,
                    seed=seed,
                    pictures=pictures,
                )
                try:
                    state = prepared.run(work_dir / "state.pt" if work_dir else None, silent)
                    known[name] = list(state.history[state.kept_epoch - 1][2:])
                except LossError:
                    known[name] = [None, None]
                if kept:
                    checkpoints.save_values(kept, known)
            loss, top1 = known[name]
            rows.append({**point, "fold": fold, "validation_loss": loss, "validation_top1": top1})
            progress(len(rows), len(candidates) * config.folds, f"point {number + 1}")
    means = [_mean(rows[n : n + config.folds]) for n in range(0, len(rows), config.folds)]
    finite = [number for number, mean in enumerate(means) if mean]
    if not finite:
        raise StageError(
            f"{backbone}: the loss is not finite at any point of recognition.grid; give it lower "
            "learning rates."
        )
    best = max(finite, key=lambda number: means[number])
    pq.write_table(pa.Table.from_pylist(rows, _ROWS), out_dir / "tuning.parquet")
    (out_dir / CHOSEN).write_text(json.dumps(candidates[best], indent=1) + "\n")
    return {"trainings": len(rows), "validation_top1": means[best][0]}


_ROWS = pa.schema(
    [
        ("learning_rate", pa.float64()),
        ("weight_decay", pa.float64()),
        ("fold", pa.int64()),
        ("validation_loss", pa.float64()),
        ("validation_top1", pa.float64()),
    ]
)


def _known(kept: Path, names: Sequence[str]) -> dict[str, list[float | None]]:
    """Loss and accuracy of the trainings that are done; nothing where none is, or is damaged."""
    known = checkpoints.load_values(kept)
    if known is None:
        return {}
    if not isinstance(known, dict) or not all(
        name in names
        and isinstance(pair, list)
        and len(pair) == 2
        and (pair == [None, None] or checkpoints.are_numbers(pair))
        for name, pair in known.items()
    ):
        checkpoints.set_aside(kept, "it holds no scores")
        return {}
    return known


def _mean(folds: Sequence[dict[str, Any]]) -> list[float]:
    """Mean accuracy and mean negative loss of a point's folds; nothing where one exploded."""
    if any(row["validation_loss"] is None for row in folds):
        return []
    pairs = [(row["validation_top1"], -row["validation_loss"]) for row in folds]
    return np.mean(pairs, axis=0).tolist()
