"""What a study gained: known changes, coverage of the interval, and what is kept of each study."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from synth_pipeline import gain, history
from synth_pipeline.config import load_config
from synth_pipeline.errors import InputError
from synth_pipeline.publishing import public_config, publish
from synth_pipeline.study import Study


def table(right_FN, regime="real", first=0, scale=None, backbone="b") -> pa.Table:
    """Outcomes of one run; photo ids begin at `first`."""
    rows = [
        {
            "backbone": backbone,
            "regime": regime,
            "scale": scale,
            "fold": fold,
            "case_id": f"case-{first + photo}",
            "class_id": "c",
            "right": bool(right),
        }
        for fold, row in enumerate(right_FN)
        for photo, right in enumerate(row)
    ]
    return pa.Table.from_pylist(rows, gain.OUTCOMES)


def random(rng, chance, folds=5, photos=113):
    return rng.random((folds, photos)) < chance


def test_a_study_against_itself_gains_nothing(rng):
    right = random(rng, 0.3)
    (found,) = gain.gains(table(right), table(right), seed=1)
    assert (found.change, found.paired, found.photos) == (0, True, 113)
    assert (found.low, found.high) == (0, 0), "the same photos are drawn for both"


def test_folds_are_other_models_in_each_study(rng):
    """Each study's folds agree on the photos, and differ in skill, about as the other's do."""
    hard_N = rng.random(113)
    before, now = (hard_N < np.array([0.2, 0.25, 0.3, 0.35, last])[:, None] for last in (0.4, 0.41))
    (found,) = gain.gains(table(before), table(now), seed=1)
    assert found.low < -0.05 < 0.05 < found.high


def test_a_known_change():
    before = np.zeros((2, 100), bool)
    now = before.copy()
    before[:, :40], now[:, :55] = True, True
    (found,) = gain.gains(table(before), table(now), seed=1)
    assert (found.before, found.now) == (0.4, 0.55)
    assert found.change == pytest.approx(0.15)
    # Fifteen of a hundred photos changed: a binomial share.
    half = 1.96 * np.sqrt(0.15 * 0.85 / 100)
    assert found.low == pytest.approx(0.15 - half, abs=0.015)
    assert found.high == pytest.approx(0.15 + half, abs=0.015)


def test_only_photos_that_both_know_are_compared(rng):
    right = np.repeat(rng.random((1, 60)) < 0.5, 2, axis=0)
    # The newer study knows ten photos more, all of them recognised.
    more = np.concatenate([right, np.ones((2, 10), bool)], axis=1)
    (found,) = gain.gains(table(right), table(more), seed=1)
    assert (found.photos, found.paired, found.change) == (60, True, 0)


def test_other_photos_are_compared_apart_and_that_is_said(rng):
    before, now = random(rng, 0.2), random(rng, 0.6, photos=50)
    (found,) = gain.gains(table(before), table(now, first=1000), seed=1)
    assert (found.photos, found.paired) == (50, False)
    assert found.change == pytest.approx(now.mean() - before.mean())
    spread = np.sqrt(0.2 * 0.8 / 113 + 0.6 * 0.4 / 50)
    assert found.high - found.low < 2 * 1.96 * spread
    few = table(now[:, :50], first=100)  # thirteen photos in common
    assert not gain.gains(table(before), few, seed=1)[0].paired


def test_a_photo_whose_diagnosis_changed_is_another():
    right = np.ones((2, 20), bool)
    corrected = table(right).set_column(5, "class_id", pa.array(["d"] * 40))
    assert not gain.gains(table(right), corrected, seed=1)[0].paired


def test_each_regime_by_its_best_run(rng):
    low, high = np.zeros((2, 30), bool), np.ones((2, 30), bool)
    before = pa.concat_tables([table(low), table(low, "synthetic", scale=5)])
    now = pa.concat_tables(
        [
            table(low),
            table(low, "synthetic", scale=5),
            table(high, "synthetic", scale=10),
            table(high, "mixed", scale=10),
        ]
    )
    found = {each.regime: each.change for each in gain.gains(before, now, seed=1)}
    assert found == {"real": 0, "synthetic": 1}


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Studies whose folds agree with their photos' difficulty; half of the photos' luck is shared.

    Folds are few and make the interval wide, so it is held to be safe rather than exact.
    """
    rng = np.random.default_rng(5)
    held, gained = 0, 0.08
    for study in range(200):
        hard_N = rng.beta(1, 2, 113)
        before = rng.random((5, 113)) < hard_N * (1 - gained / (1 / 3))
        now = rng.random((5, 113)) < hard_N
        (found,) = gain.gains(table(before), table(now), seed=study)
        held += found.low <= gained <= found.high
    assert 0.93 <= held / 200 <= 1.0


def test_outcomes_are_the_first_guesses_and_a_tie_is_wrong():
    rows = [
        {"case_id": "x", "class_id": "a", "true_index": 0, "probabilities": [0.6, 0.4]},
        {"case_id": "y", "class_id": "b", "true_index": 1, "probabilities": [0.6, 0.4]},
        {"case_id": "z", "class_id": "a", "true_index": 0, "probabilities": [0.5, 0.5]},
    ]
    common = {"backbone": "b", "regime": "real", "scale": None, "fold": 0}
    found = gain.outcomes(pa.Table.from_pylist([{**common, **row} for row in rows]))
    assert found["right"].to_pylist() == [True, False, False]


@pytest.fixture
def study(finished, tmp_path) -> Study:
    """The finished study, in a root of its own."""
    shutil.copytree(finished.root, tmp_path / "root")
    study = Study(load_config(finished.config), tmp_path / "root")
    study.make(study.cases())
    return study


def entries(study):
    return sorted((study.folder / "history").iterdir())


def told(study):
    return history.since(study, study.case_set.classes, public_config(study))


def test_each_finished_study_is_kept_once_and_is_private(study):
    (entry,) = entries(study)
    known = json.loads((entry / "study.json").read_text())
    assert known["scores"] == study.graph.artifact(study.scores(study.case_set.classes)).digest
    counts = {name: (of["train"], of["test"]) for name, of in known["classes"].items()}
    assert counts == dict.fromkeys(study.case_set.classes, (4, 2))
    assert entry.stat().st_mode & 0o077 == 0
    publish(study, list(study.case_set.classes), {})
    assert entries(study) == [entry]
    assert told(study) is None, "there is no other study to compare with"


def other_scores(entry, **changes):
    """Make an entry one of a study that found other scores."""
    known = json.loads((entry / "study.json").read_text())
    known |= {"scores": "other", "finished": "2026-11-24T03:00:00+00:00", **changes}
    (entry / "study.json").write_text(json.dumps(known))


def test_the_last_study_with_other_scores_is_compared_with(study):
    (entry,) = entries(study)
    known = json.loads((entry / "study.json").read_text())["classes"]
    first, second, third = study.case_set.classes
    then = {first: known[first], second: {"train": 3, "test": 2, "photos": "others"}}
    then["gone"] = {"train": 1, "test": 0, "photos": "x"}
    other_scores(entry, classes=then)
    since = told(study)
    assert {each.regime for each in since.gains} == {"real", "synthetic"}
    assert all(each.change == 0 and each.paired and each.photos == 6 for each in since.gains)
    assert not since.settings
    lines = "\n".join(history.in_words(since))
    for part in (f"{second} (+1 training)", f"{third} (new)", "gone (gone)"):
        assert part in lines
    assert first not in lines
    assert "since 2026-11-24 03:00" in lines
    # The same after this study was kept, too: it is not compared with itself.
    publish_report_and_keep(study)
    assert len(entries(study)) == 2
    assert told(study) == since


def publish_report_and_keep(study):
    from synth_pipeline.publishing import report_node

    classes = list(study.case_set.classes)
    study.make(report_node(study, classes, {}))
    publish(study, classes, {})


def test_the_report_tells_it(study):
    (entry,) = entries(study)
    assert "Since the last study" not in (study.folder / "report.html").read_text()
    other_scores(entry, settings="another configuration")
    publish_report_and_keep(study)
    page = (study.folder / "report.html").read_text()
    assert "Since the last study" in page
    assert "2026-11-24 03:00 UTC" in page
    assert "The configuration was changed as well." in page
    assert "No photo changed." in page


def test_a_damaged_entry_is_one_sentence(study):
    (entry,) = entries(study)
    other_scores(entry)
    (entry / "outcomes.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"^[^\n]*0001 is damaged; remove that folder"):
        told(study)
