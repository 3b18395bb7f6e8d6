"""Scores: metrics equal scikit-learn's, and the interval covers what it says."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, recall_score, top_k_accuracy_score
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

from synth_pipeline import bootstrap, class_scores, comparison, scores
from synth_pipeline.evaluation import _SCHEMA


def write_predictions(path, probabilities_FNK, true_N, scale=None):
    rows = [
        {
            "backbone": "net",
            "regime": "real" if scale is None else "synthetic",
            "scale": scale,
            "images": 7,
            "fold": fold,
            "case_id": f"case-{image}",
            "class_id": f"class-{true_N[image]}",
            "true_index": int(true_N[image]),
            "probabilities": probabilities_FNK[fold, image].astype(np.float32),
        }
        for fold in range(probabilities_FNK.shape[0])
        for image in range(probabilities_FNK.shape[1])
    ]
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), path)
    return path


def random_predictions(rng, folds=3, images=40, classes=12, skill=0.0):
    true_N = rng.integers(classes, size=images)
    logits = rng.normal(size=(folds, images, classes))
    logits[:, np.arange(images), true_N] += skill
    p = np.exp(logits)
    return (p / p.sum(2, keepdims=True)).astype(np.float32), true_N


def scored(tmp_path, probabilities, true_N, name="scores"):
    out_dir = tmp_path / name
    out_dir.mkdir()
    table = write_predictions(tmp_path / f"{name}.parquet", probabilities, true_N)
    scores.run([table], seed=1, out_dir=out_dir)
    rows = pq.read_table(out_dir / "scores.parquet").to_pylist()
    return {row["metric"]: row for row in rows}


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_scikit_learns(tmp_path, seed):
    rng = np.random.default_rng(seed)
    probabilities, true_N = random_predictions(rng, skill=1.0)
    rows = scored(tmp_path, probabilities, true_N)
    classes = probabilities.shape[2]
    for k in (1, 5, 10):
        expected = [
            top_k_accuracy_score(true_N, fold, k=k, labels=range(classes)) for fold in probabilities
        ]
        assert rows[f"top{k}"]["mean"] == pytest.approx(np.mean(expected))
        assert rows[f"top{k}"]["deviation"] == pytest.approx(np.std(expected, ddof=1))
    expected = [f1_score(true_N, fold.argmax(1), average="macro") for fold in probabilities]
    assert rows["macro_f1"]["mean"] == pytest.approx(np.mean(expected))
    assert rows["macro_f1"]["deviation"] == pytest.approx(np.std(expected, ddof=1))


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_torchmetrics(tmp_path, seed):
    rng = np.random.default_rng(seed)
    probabilities, true_N = random_predictions(rng, images=200, skill=1.0)
    rows = scored(tmp_path, probabilities, true_N)
    classes, target = probabilities.shape[2], torch.from_numpy(true_N)
    metrics = {f"top{k}": MulticlassAccuracy(classes, k, average="micro") for k in (1, 5, 10)}
    metrics["macro_f1"] = MulticlassF1Score(classes, average="macro")
    metrics["ece"] = MulticlassCalibrationError(classes, n_bins=15, norm="l1")
    for name, metric in metrics.items():
        expected = [metric(torch.from_numpy(fold), target).item() for fold in probabilities]
        assert rows[name]["mean"] == pytest.approx(np.mean(expected), abs=1e-5), name


def test_k_is_capped_at_the_number_of_classes(tmp_path, rng):
    rows = scored(tmp_path, *random_predictions(rng, classes=4))
    assert [rows[f"top{k}"]["k"] for k in scores.TOP_K] == [1, 4, 4, 4]
    assert rows["top5"]["mean"] == 1.0


def test_ties_count_against_the_network():
    """A network that says the same of every class knows nothing: its Top-1 must not be 1."""
    flat = np.full((1, 6, 3), 1 / 3)
    assert (scores.true_ranks(flat, np.array([0, 1, 2, 0, 1, 2])) == 3).all()


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Images of known hardness, folds of known skill: 1,000 small studies; 95 % is stated.

    Coverage is of the accuracy over all images and folds that could have been drawn.
    """
    rng = np.random.default_rng(0)
    folds, images, classes, covered, studies = 5, 60, 8, 0, 1000
    true_N = np.tile(np.arange(classes), 8)[:images]

    def right(skill_F, hardness_N, count):
        noise = rng.gumbel(size=(folds, count, classes))
        noise[:, np.arange(count), np.resize(true_N, count)] += skill_F[:, None] + hardness_N
        return noise

    everything = right(1.5 + 0.3 * rng.normal(size=folds), rng.normal(size=4000), 4000)
    for _ in range(40):
        more = right(1.5 + 0.3 * rng.normal(size=folds), rng.normal(size=4000), 4000)
        everything = np.concatenate([everything, more])
    truth = (everything.argmax(2) == np.resize(true_N, 4000)).mean()
    for study in range(studies):
        logits = right(1.5 + 0.3 * rng.normal(size=folds), rng.normal(size=images), images)
        p = np.exp(logits - logits.max(2, keepdims=True))
        rows = [
            {
                "backbone": "net", "regime": "real", "scale": None, "images": 7, "fold": fold,
                "true_index": int(true_N[image]), "probabilities": p[fold, image],
            }
            for fold in range(folds)
            for image in range(images)
        ]  # fmt: skip
        row = scores._score(pa.Table.from_pylist(rows), study)[0]
        covered += row["low"] <= truth <= row["high"]
    assert 0.935 <= covered / studies <= 0.975


@pytest.mark.parametrize(
    ("folds", "images", "skill", "hardness"),
    [(5, 60, 0, 1), (5, 150, 0.3, 1), (5, 60, 1, 1), (5, 60, 0.3, 0.2), (2, 60, 0.3, 1)],
)
def test_the_interval_is_right_whether_folds_or_images_differ_more(folds, images, skill, hardness):
    """500 studies each, of what decides whether a fold is right about an image."""
    rng = np.random.default_rng(1)

    def chance(logit):
        return np.exp(logit) / (np.exp(logit) + 7)

    truth = chance(1.5 + np.hypot(skill, hardness) * rng.normal(size=1_000_000)).mean()
    covered = 0
    for _ in range(500):
        skill_F, hardness_N = skill * rng.normal(size=folds), hardness * rng.normal(size=images)
        right_FN = rng.random((folds, images)) < chance(1.5 + skill_F[:, None] + hardness_N)
        drawn_BN = bootstrap.drawn(rng, images)
        low, high = bootstrap.interval(rng, bootstrap.accuracy(right_FN, drawn_BN))
        covered += low <= truth <= high
    # Three standard errors of 500 coins of 95 %.
    assert abs(covered / 500 - 0.95) <= 0.03


def test_an_interval_ends_where_accuracies_end(rng):
    """Two folds that differ much say little; none of it is beyond all or nothing."""
    right_FN = np.array([[True] * 30, [True] * 10 + [False] * 20])
    low, high = bootstrap.interval(rng, bootstrap.accuracy(right_FN, bootstrap.drawn(rng, 30)))
    assert (low, high) == (0, 1)


def test_same_predictions_same_bytes(tmp_path, rng):
    predictions = random_predictions(rng)
    scored(tmp_path, *predictions, name="a")
    scored(tmp_path, *predictions, name="b")
    one, two = (tmp_path / name / "scores.parquet" for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_the_best_says_among_how_many_it_is_the_best():
    rows = [
        {"regime": "real", "mean": 0.3},
        {"regime": "synthetic", "mean": 0.2},
        {"regime": "synthetic", "mean": 0.4},
    ]
    assert scores.best_by_regime(rows) == [
        {"regime": "real", "mean": 0.3, "of": 1},
        {"regime": "synthetic", "mean": 0.4, "of": 2},
    ]


@pytest.mark.parametrize("only_first", [0, 1, 3, 9, 20])
@pytest.mark.parametrize("only_second", [0, 2, 9, 15])
def test_mcnemars_p_value_is_the_binomial_tests(only_first, only_second):
    differing = only_first + only_second
    expected = binomtest(only_first, differing).pvalue if differing else 1.0
    assert comparison.mcnemar_exact(only_first, only_second) == pytest.approx(expected)


def test_runs_are_compared_with_real_only_photo_by_photo(tmp_path, rng):
    real, true_N = random_predictions(rng, images=60, skill=1.0)
    made, _ = random_predictions(rng, images=60)
    made[:, :30] = np.eye(12)[true_N[:30]]
    tables = [
        write_predictions(tmp_path / "real.parquet", real, true_N),
        write_predictions(tmp_path / "made.parquet", made, true_N, scale=9),
    ]
    scores.run(tables, seed=1, out_dir=tmp_path)
    (row,) = pq.read_table(tmp_path / "comparisons.parquet").to_pylist()
    assert (row["regime"], row["scale"]) == ("synthetic", 9)
    right = [p.mean(0).argmax(1) == true_N for p in (real, made)]
    assert row["only_real_right"] == (right[0] & ~right[1]).sum()
    assert row["only_this_right"] == (right[1] & ~right[0]).sum()


def test_the_largest_scale_is_compared_with_the_best_photo_by_photo(tmp_path, rng):
    """The same photos are right at both but for ten of them: the interval knows, and is narrow."""
    best, true_N = random_predictions(rng, images=200, skill=1.0)
    best = np.repeat(best[:1], 5, axis=0)
    largest = best.copy()
    right = np.flatnonzero(best[0].argmax(1) == true_N)[:10]
    largest[:, right] = np.eye(12)[(true_N[right] + 1) % 12]
    worst = np.full_like(best, 1 / 12)
    tables = [
        write_predictions(tmp_path / f"{scale}.parquet", made, true_N, scale=scale)
        for scale, made in ((20, worst), (50, best), (90, largest))
    ]
    scores.run(tables, seed=1, out_dir=tmp_path)
    (row,) = pq.read_table(tmp_path / "scale_changes.parquet").to_pylist()
    assert row["change"] == pytest.approx(-0.05)
    assert row["low"] < -0.05 < row["high"] < 0
    # Of 200 photos that are drawn apart, the interval would be four times as wide.
    assert row["high"] - row["low"] < 0.07


def test_where_the_largest_scale_is_the_best_nothing_is_lost(tmp_path, rng):
    made, true_N = random_predictions(rng, images=60, skill=1.0)
    tables = [
        write_predictions(tmp_path / f"{scale}.parquet", made, true_N, scale=scale)
        for scale in (20, 50)
    ]
    scores.run(tables, seed=1, out_dir=tmp_path)
    (row,) = pq.read_table(tmp_path / "scale_changes.parquet").to_pylist()
    assert (row["change"], row["low"], row["high"]) == (0, 0, 0)


def test_folds_together_are_their_mean_probability(tmp_path, rng):
    probabilities, true_N = random_predictions(rng, skill=1.0)
    row = scored(tmp_path, probabilities, true_N)["ensemble_top1"]
    assert row["mean"] == pytest.approx((probabilities.mean(0).argmax(1) == true_N).mean())
    assert row["low"] <= row["mean"] <= row["high"]
    assert row["deviation"] is None


def test_calibration_error_by_its_definition(rng):
    p, true_N = random_predictions(rng, folds=1, images=500, skill=2.0)
    confidence, right = p[0].max(1), p[0].argmax(1) == true_N
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    found = comparison.calibration_errors(p[0], true_N, np.ones((1, 500)))
    assert found[0] == pytest.approx(expected, abs=1e-6)


def test_who_is_sure_and_right_is_calibrated_and_who_is_wrong_is_not():
    true_N, sure = np.arange(4), np.eye(4)
    once = np.ones((1, 4))
    assert comparison.calibration_errors(sure, true_N, once)[0] == pytest.approx(0)
    assert comparison.calibration_errors(sure[::-1], true_N, once)[0] == pytest.approx(1)


@pytest.mark.parametrize(("right", "photos"), [(0, 1), (1, 1), (3, 7), (10, 10), (44, 113)])
def test_wilsons_interval_is_scipys(right, photos):
    expected = binomtest(right, photos).proportion_ci(method="wilson")
    found = class_scores.wilson(right, photos)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_recalls_and_confusions_are_scikit_learns(rng, tmp_path):
    probabilities, true_N = random_predictions(rng, images=90, classes=6, skill=1.0)
    paths = [
        write_predictions(tmp_path / "real.parquet", probabilities, true_N),
        write_predictions(tmp_path / "made.parquet", probabilities[:, ::-1], true_N, scale=9),
    ]
    both = pa.concat_tables([pq.read_table(path) for path in paths])
    run = pq.read_table(paths[0]).slice(0, 1).to_pylist()[0]
    own = class_scores.of_run(both, run)
    assert own.equals(pq.read_table(paths[0]))
    guesses = probabilities.mean(0).argmax(1)
    expected = confusion_matrix(true_N, guesses, labels=range(6))
    assert (class_scores.confusion(own, 6) == expected).all()
    names = [f"class-{number}" for number in range(6)]
    found = class_scores.recalls(own, names)
    for number, share in enumerate(recall_score(true_N, guesses, labels=range(6), average=None)):
        line = found[names[number]]
        assert line["right"] / line["photos"] == pytest.approx(share)
        others = np.delete(expected[number], number)
        if others.any():
            assert expected[number][names.index(line["taken_for"])] == others.max()
