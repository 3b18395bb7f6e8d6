"""A study of which nobody is held out is told so before anything is trained."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synth_pipeline.config import StudyConfig
from synth_pipeline.held_out import none_held_out
from synth_pipeline.study import Study


def photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def study(tmp_path):
    """A study of so many photos in each of two classes."""

    def make(photos: int, **cases: object) -> Study:
        source = tmp_path / "photos"
        for number in range(2 * photos):
            photo(source / "ab"[number % 2] / f"{number}.png", number)
        settings = {"source": str(source), **cases}
        config = StudyConfig.model_validate({"name": "s", "cases": settings})
        return Study(config, tmp_path / "root")

    return make


@pytest.fixture
def table(tmp_path):
    """A study of a table of photos: file number, class, person, split."""

    def make(*rows: tuple[int, str, str, str], **cases: object) -> Study:
        source = tmp_path / "table"
        for number, *_ in rows:
            photo(source / f"{number}.png", number)
        with (source / "cases.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", "class", "subject", "split"])
            writer.writerows([f"{number}.png", *rest] for number, *rest in rows)
        settings = {"source": str(source), "format": "csv", **cases}
        config = StudyConfig.model_validate({"name": "s", "cases": settings})
        return Study(config, tmp_path / "root")

    return make


def test_one_photo_a_class(study):
    made = study(1)
    told = none_held_out(made)
    assert "add photos of a second person" in told
    assert "--until selection" in told
    made.make(made.cases())
    assert none_held_out(made) == told


def test_that_no_photo_can_be_used_is_left_to_the_import(study, tmp_path):
    made = study(1)
    (tmp_path / "photos" / "a" / "0.png").write_bytes(b"nothing")
    assert none_held_out(made) is None


def test_two_photos_a_class_do(study):
    made = study(2)
    assert none_held_out(made) is None
    made.make(made.cases())
    assert none_held_out(made) is None


def test_a_share_of_nothing(study):
    # With one photo a class no share would do.
    assert "second person" in none_held_out(study(1, test_fraction=0.0))
    assert "raise cases.test_fraction" in none_held_out(study(2, test_fraction=0.0))


def test_what_only_the_import_finds_is_told_after_it(study, tmp_path):
    """Two files of each class, which show the same pixels."""
    made = study(1)
    for file in sorted((tmp_path / "photos").rglob("*.png")):
        with Image.open(file) as picture:
            picture.save(file.with_name(f"again {file.name}"), compress_level=1)
    again = Study(made.config, made.root)
    assert none_held_out(again) is None
    again.make(again.cases())
    assert "second person" in none_held_out(again)


def test_photos_of_one_person_are_not_parted(table):
    rows = [(n, "ab"[n % 2], f"child {n % 2}", "") for n in range(6)]
    assert "second person" in none_held_out(table(*rows))


def test_a_column_that_holds_nobody_out(table):
    rows = [(n, "ab"[n % 2], "", "train") for n in range(6)]
    assert "into the column split" in none_held_out(table(*rows))
    rows[0] = (0, "a", "", "test")
    assert none_held_out(table(*rows)) is None


def test_held_out_photos_that_cannot_be_used(table, tmp_path):
    made = table(*[(n, "ab"[n % 2], "", "test" if n < 2 else "train") for n in range(6)])
    for number in range(2):
        (tmp_path / "table" / f"{number}.png").write_bytes(b"nothing")
    made.make(made.cases())
    assert "with split test can be used" in none_held_out(made)


def test_phantoms_of_which_none_is_held_out(tmp_path):
    phantom = {"classes": 2, "per_class": 2, "test_per_class": 0}
    settings = {"name": "s", "cases": {"format": "phantom", "phantom": phantom}}
    made = Study(StudyConfig.model_validate(settings), tmp_path)
    assert "cases.phantom.test_per_class" in none_held_out(made)
    phantom["test_per_class"] = 1
    made = Study(StudyConfig.model_validate(settings), tmp_path)
    assert none_held_out(made) is None
