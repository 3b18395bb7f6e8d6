"""From predictions to accuracies: each derived from what was stored, each with an interval.

How the intervals are made: `bootstrap`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline.bootstrap import PerFold, accuracy, drawn, interval
from synth_pipeline.comparison import against, calibration_errors, right_together
from synth_pipeline.scale_change import SCALE_CHANGES, scale_changes
from synth_pipeline.seeds import derived_seed

TOP_K = (1, 5, 10, 30)


def run(predictions: Sequence[Path], *, seed: int, out_dir: Path) -> dict[str, float]:
    """Write `scores.parquet`, one row for each run and metric, and two tables that compare runs.

    Columns: backbone, regime, scale (null for `real`), images (trained on), metric (`top1` ...
    `macro_f1`; `ensemble_top1`, of the folds' mean probability; `ece`, the expected calibration
    error), k (capped at the number of classes; null where there is none), mean and sample deviation
    over folds (null for the ensemble), low and high of the 95 % interval, folds, test_images,
    classes. Shares are 0 to 1.

    `comparisons.parquet`: of each run against the same backbone on real photos only, on the same
    test photos, each by its folds together: how many only one of the two gets right, and the exact
    p-value of McNemar's test. `scale_changes.parquet`: of each curve, its largest scale against
    its best (see `scale_change`).

    Args:
        predictions: `predictions.parquet` of every evaluation.
        seed: of the bootstrap.
        out_dir: an empty folder.
    """
    tables = [pq.read_table(path) for path in predictions]
    rows = [row for table in tables for row in _score(table, seed)]
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out_dir / "scores.parquet")
    compared = pa.Table.from_pylist(_compare(tables), _COMPARISONS)
    pq.write_table(compared, out_dir / "comparisons.parquet")
    changes = pa.Table.from_pylist(scale_changes(_right(tables), seed), SCALE_CHANGES)
    pq.write_table(changes, out_dir / "scale_changes.parquet")
    return {"runs": len(predictions)}


_SCHEMA = pa.schema(
    [
        ("backbone", pa.string()),
        ("regime", pa.string()),
        ("scale", pa.int32()),
        ("images", pa.int32()),
        ("metric", pa.string()),
        ("k", pa.int32()),
        ("mean", pa.float64()),
        ("deviation", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("folds", pa.int32()),
        ("test_images", pa.int32()),
        ("classes", pa.int32()),
    ]
)


_COMPARISONS = pa.schema(
    [
        ("backbone", pa.string()),
        ("regime", pa.string()),
        ("scale", pa.int32()),
        ("only_real_right", pa.int32()),
        ("only_this_right", pa.int32()),
        ("p_value", pa.float64()),
    ]
)


def _compare(tables: Sequence[pa.Table]) -> list[dict]:
    """Every run against its backbone's on real photos only, where there is one."""
    right, rows = {}, []
    for table in tables:
        probabilities_FNK, true_N, first = unpacked(table)
        run_name = (first["backbone"], first["regime"], first["scale"])
        right[run_name] = right_together(probabilities_FNK, true_N)
    for (backbone, regime, scale), own_N in right.items():
        real_N = right.get((backbone, "real", None))
        if regime == "real" or real_N is None:
            continue
        only_real, only_this, p_value = against(real_N, own_N)
        rows.append(
            {
                "backbone": backbone,
                "regime": regime,
                "scale": scale,
                "only_real_right": only_real,
                "only_this_right": only_this,
                "p_value": p_value,
            }
        )
    return rows


def _right(tables: Sequence[pa.Table]) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Of every run what names it, and (F, N) whether each fold gets each photo right."""
    found = []
    for table in tables:
        probabilities_FNK, true_N, first = unpacked(table)
        found.append((first, true_ranks(probabilities_FNK, true_N) == 1))
    return found


def unpacked(table: pa.Table) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """(F, N, K) probabilities, (N,) index of the true class, and what names the run."""
    folds = int(table["fold"].to_numpy().max()) + 1
    probabilities_FNK = np.stack(table["probabilities"].to_numpy()).reshape(
        folds, table.num_rows // folds, -1
    )
    true_N = table["true_index"].to_numpy()[: probabilities_FNK.shape[1]]
    return probabilities_FNK, true_N, table.slice(0, 1).to_pylist()[0]


def _score(table: pa.Table, seed: int) -> list[dict]:
    probabilities_FNK, true_N, first = unpacked(table)
    folds = len(probabilities_FNK)
    images, classes = probabilities_FNK.shape[1:]
    run_name = (first["backbone"], first["regime"], first["scale"] or 0)
    rng = np.random.default_rng(derived_seed(seed, "bootstrap", *run_name))
    images_BN = drawn(rng, images)
    ranks_FN = true_ranks(probabilities_FNK, true_N)
    rows: list[tuple[str, int | None, PerFold]] = [
        (f"top{k}", min(k, classes), accuracy(ranks_FN <= k, images_BN)) for k in TOP_K
    ]
    once = np.ones((1, images))
    guesses_FN = probabilities_FNK.argmax(2)

    def f1s(weights_BN: np.ndarray) -> np.ndarray:
        return np.stack([macro_f1(g, true_N, classes, weights_BN) for g in guesses_FN])

    def errors(weights_BN: np.ndarray) -> np.ndarray:
        return np.stack([calibration_errors(p, true_N, weights_BN) for p in probabilities_FNK])

    rows += [
        (name, None, PerFold(figure(once)[:, 0], figure(images_BN)))
        for name, figure in (("macro_f1", f1s), ("ece", errors))
    ]
    together_N = right_together(probabilities_FNK, true_N)
    rows.append(("ensemble_top1", 1, accuracy(together_N[None], images_BN)))
    found = []
    for metric, k, of in rows:
        low, high = interval(rng, of)
        found.append(
            {
                **{name: first[name] for name in ("backbone", "regime", "scale", "images")},
                "metric": metric,
                "k": k,
                "mean": float(of.values.mean()),
                "deviation": float(of.values.std(ddof=1)) if len(of.values) > 1 else None,
                "low": low,
                "high": high,
                "folds": folds,
                "test_images": images,
                "classes": classes,
            }
        )
    return found


def best_by_regime(top1: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The best row of every regime, each with `of`: among how many it is the best.

    The held-out photos chose it, so where `of` is more than one it flatters; people must be told.
    """
    found = []
    for regime in dict.fromkeys(row["regime"] for row in top1):
        rows = [row for row in top1 if row["regime"] == regime]
        found.append({**max(rows, key=lambda row: row["mean"]), "of": len(rows)})
    return found


def true_ranks(probabilities_FNK: np.ndarray, true_N: np.ndarray) -> np.ndarray:
    """(F, N) place of the true class, 1 the best; a tie counts against it.

    Args:
        probabilities_FNK: of folds, images and classes.
        true_N: index of the true class.
    """
    own = np.take_along_axis(probabilities_FNK, true_N[None, :, None], axis=2)
    return (probabilities_FNK >= own).sum(2)


def macro_f1(
    guesses_N: np.ndarray, true_N: np.ndarray, classes: int, weights_BN: np.ndarray
) -> np.ndarray:
    """(B,) mean F1 over the classes that occur among truths or guesses, for weighted images.

    Args:
        guesses_N: index of the guessed class.
        true_N: index of the true class.
        classes: number of classes.
        weights_BN: how often each image counts, for B resamples.
    """
    guessed_NK = np.eye(classes)[guesses_N]
    true_NK = np.eye(classes)[true_N]
    hits_BK = weights_BN @ (guessed_NK * true_NK)
    both_BK = weights_BN @ guessed_NK + weights_BN @ true_NK
    f1_BK = np.divide(2 * hits_BK, both_BK, out=np.zeros_like(hits_BK), where=both_BK > 0)
    return f1_BK.sum(1) / np.maximum((both_BK > 0).sum(1), 1)
