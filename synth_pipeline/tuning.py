"""Choose hyper-parameters by cross-validation on a recogniser's own training images.

Every point of the declared grid is trained on every fold, and judged by the fold's validation
images; the held-out photos are not known here.
"""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline import training
from synth_pipeline.config import Grid, RecognitionConfig
from synth_pipeline.picture_store import PictureStore
from synth_pipeline.progress import Progress, silent
from synth_pipeline.recognition_data import Example
from synth_pipeline.store import canonical_json, write_in_one_step

CHOSEN = "chosen.json"


def points(config: RecognitionConfig) -> list[dict[str, float]]:
    """Every combination of the grid; what it does not vary is as configured."""
    rates = config.grid.learning_rate or (config.learning_rate,)
    decays = config.grid.weight_decay or (config.weight_decay,)
    return [
        {"learning_rate": rate, "weight_decay": decay} for rate, decay in product(rates, decays)
    ]


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
    lower mean validation loss.

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
        StageError: as of `training.run`; a rate at which the loss explodes does not belong into
            the grid.
    """
    kept = work_dir / "scores.json" if work_dir else None
    known = json.loads(kept.read_bytes()) if kept and kept.exists() else {}
    rows = []
    candidates = points(config)
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
                state = prepared.run(work_dir / "state.pt" if work_dir else None, silent)
                _, _, loss, top1 = state.history[state.kept_epoch - 1]
                known[name] = [loss, top1]
                if kept:
                    write_in_one_step(kept, canonical_json(known))
            loss, top1 = known[name]
            rows.append({**point, "fold": fold, "validation_loss": loss, "validation_top1": top1})
            progress(len(rows), len(candidates) * config.folds, f"point {number + 1}")
    means = [
        np.mean([(r["validation_top1"], -r["validation_loss"]) for r in of_point], axis=0).tolist()
        for of_point in (
            rows[start : start + config.folds] for start in range(0, len(rows), config.folds)
        )
    ]
    best = max(range(len(candidates)), key=lambda i: means[i])
    pq.write_table(pa.Table.from_pylist(rows), out_dir / "tuning.parquet")
    (out_dir / CHOSEN).write_text(json.dumps(candidates[best], indent=1) + "\n")
    return {"trainings": len(rows), "validation_top1": means[best][0]}
