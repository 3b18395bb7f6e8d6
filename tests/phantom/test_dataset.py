"""A folder of phantoms: its files, its ground truth, and what it refuses."""

import csv
import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from synth_pipeline.errors import InputError
from synth_pipeline.phantom import phenotypes
from synth_pipeline.phantom.dataset import class_names, make_dataset

SMALL = {"classes": 3, "per_class": 2, "test_per_class": 1, "size_px": 64, "seed": 4}


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, landmark_model):
    out_dir = tmp_path_factory.mktemp("phantoms") / "made"
    make_dataset(out_dir, **SMALL, mesh_path=landmark_model)
    return out_dir


def test_same_seed_same_bytes(folder, tmp_path, landmark_model):
    make_dataset(tmp_path / "again", **SMALL, mesh_path=landmark_model)
    make_dataset(tmp_path / "other", **{**SMALL, "seed": 5}, mesh_path=landmark_model)
    assert _digests(folder) == _digests(tmp_path / "again")
    assert _digests(folder) != _digests(tmp_path / "other")


def test_more_images_leave_the_first_as_they_are(folder, tmp_path, landmark_model):
    """A larger set of the same seed extends a smaller one, so that results can be compared."""
    make_dataset(tmp_path / "more", **{**SMALL, "test_per_class": 2}, mesh_path=landmark_model)
    more = _digests(tmp_path / "more")
    images = {name: value for name, value in _digests(folder).items() if name.endswith(".png")}
    assert len(images) == 9
    assert images.items() <= more.items()


def test_cases_list_every_image_once(folder):
    with (folder / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["file", "class", "subject", "split"]
    assert sorted(row["file"] for row in rows) == sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*.png")
    )
    assert [row["split"] for row in rows] == ["train", "train", "test"] * 3
    assert len({row["subject"] for row in rows}) == len(rows), (
        "every phantom is a person of its own"
    )


def test_images_say_that_they_are_synthetic(folder):
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            assert image.size == (64, 64)
            assert image.info["synthetic"] == "true"
            assert image.info["generator"] == "synth-pipeline phantom"


def test_the_truth_agrees_with_the_conditions(folder):
    truths = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    names = class_names(SMALL["classes"], SMALL["seed"])
    assert len(truths) == 9
    for truth in truths:
        name = Path(truth["file"]).parent.name
        condition = phenotypes.condition(SMALL["seed"], names.index(name), name)
        assert truth["condition"] == name
        assert truth["condition_terms_sd"] == dict(condition.sizes_sd)
        assert set(truth["terms"]) <= set(condition.sizes_sd)
        assert tuple(truth["shape_sd"]) == phenotypes.FIELDS
        for hpo_id in truth["terms"]:
            # Marked terms outweigh a person's own deviation in all but the rarest draws.
            term = phenotypes.term(hpo_id)
            assert truth["shape_sd"][term.field] * term.sign > -0.5


def test_class_names_are_plain_and_different():
    names = class_names(400, 0)
    assert len(set(names)) == 400
    assert all(name.isascii() and name.isalpha() and name.islower() for name in names)
    assert class_names(20, 0) == names[:20]


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"classes": 0}, "--classes 0"),
        ({"classes": -1}, "--classes -1"),
        ({"per_class": 0}, "--per-class 0"),
        ({"test_per_class": -1}, "--test-per-class -1"),
        ({"size_px": 8}, "--size-px 8"),
        ({"size_px": 100_000}, "--size-px 100000"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_written(
    tmp_path, landmark_model, wrong, option
):
    with pytest.raises(InputError, match=option):
        make_dataset(tmp_path / "out", **{**SMALL, **wrong}, mesh_path=landmark_model)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_refused_and_kept(tmp_path, landmark_model):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match=r"choose another folder, or empty it"):
        make_dataset(tmp_path, **SMALL, mesh_path=landmark_model)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_mesh_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="doctor --fetch"):
        make_dataset(tmp_path / "out", **SMALL, mesh_path=tmp_path / "absent.task")
    assert not (tmp_path / "out").exists()
