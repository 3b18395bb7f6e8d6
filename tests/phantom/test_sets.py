"""The benchmarks that others cite must stay what they are."""

import hashlib
import json
from collections import Counter

import pytest

from synth_pipeline.errors import InputError
from synth_pipeline.phantom.sets import BENCHMARKS, TRUTH_SHA256, PhantomSet


def test_phantom_103_has_classes_like_rdface():
    counts = Counter(BENCHMARKS["phantom-103"].per_class)
    sizes = BENCHMARKS["phantom-103"].per_class
    assert (len(sizes), sum(sizes), min(sizes), max(sizes)) == (103, 456, 1, 7)
    # A quarter of the images of conditions with more than one, rounded up, were 113.
    assert -(-(456 - counts[1]) // 4) == 113


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_ground_truth_is_the_one_that_figures_were_given_for(
    name, tmp_path, landmark_model, monkeypatch
):
    """The pictures, which the truth does not hang on, are left out: they take a minute."""
    from synth_pipeline.phantom import dataset

    monkeypatch.setattr(dataset, "save_png", lambda *_: None)
    monkeypatch.setattr(dataset.PhantomRenderer, "picture", lambda *_: None)
    BENCHMARKS[name].make(tmp_path / "set", mesh_path=landmark_model)
    truth = (tmp_path / "set" / "truth.jsonl").read_bytes()
    assert hashlib.sha256(truth).hexdigest() == TRUTH_SHA256[name]


def test_classes_of_different_sizes(tmp_path, landmark_model):
    wanted = PhantomSet((1, 3), test_per_class=2, size_px=64, seed=3)
    wanted.make(tmp_path / "set", mesh_path=landmark_model)
    rows = (tmp_path / "set" / "cases.csv").read_text().splitlines()[1:]
    assert [row.rsplit(",", 1)[1] for row in rows] == (
        ["train"] + ["test"] * 2 + ["train"] * 3 + ["test"] * 2
    )
    with pytest.raises(InputError, match="not empty"):
        wanted.make(tmp_path / "set", mesh_path=landmark_model)


def test_truth_of_a_condition_does_not_hang_on_the_others(tmp_path, landmark_model):
    for name, sizes in (("few", (2, 2)), ("many", (2, 2, 2))):
        PhantomSet(sizes, 1, 64, 3).make(tmp_path / name, mesh_path=landmark_model)
    few, many = (
        [json.loads(line) for line in (tmp_path / name / "truth.jsonl").read_text().splitlines()]
        for name in ("few", "many")
    )
    assert many[:6] == few
