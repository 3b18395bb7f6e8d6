"""Nobody is on both sides: not in training and in the test, and not on both sides of a fold."""

from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from synth_pipeline import cases
from synth_pipeline.case_sources import SourcePhoto
from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError
from synth_pipeline.near_duplicates import LEAK, NEAR_CLASH, near_duplicates
from synth_pipeline.recognition_data import Example, folds

PICTURES = 9
VARIANTS = ("as it is", "half the size", "compressed", "mirrored", "copied")


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> dict[tuple[int, str], Path]:
    """Pictures, and each again in ways that a folder of photos collects."""
    folder = tmp_path_factory.mktemp("pool")
    files = {}
    for number in range(PICTURES):
        coarse = np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((144, 144), Image.Resampling.BICUBIC)
        for variant in VARIANTS:
            made = {
                "half the size": lambda p: p.resize((72, 72)),
                "mirrored": ImageOps.mirror,
            }.get(variant, lambda p: p)(picture)
            compressed = variant == "compressed"
            path = folder / f"{number} {variant}.{'jpg' if compressed else 'png'}"
            made.save(path, **({"quality": 40} if compressed else {}))
            files[number, variant] = path
    return files


@pytest.fixture(scope="module")
def picture_of(pool) -> dict[str, int]:
    """Which picture a case shows, by the case's id."""
    found = {}
    for (number, _), path in pool.items():
        with TemporaryDirectory() as scratch:
            other = pool[(number + 1) % PICTURES, "as it is"]
            given = [SourcePhoto(path, "a", split="train"), SourcePhoto(other, "b", split="train")]
            cases.run(CasesConfig(source="x"), photos=given, seed=0, out_dir=Path(scratch))
            found[cases.load(Path(scratch)).train("a")[0].case_id] = number
    return found


def test_variants_are_found_and_other_pictures_are_not(pool):
    places = list(pool)
    found = near_duplicates([pool[place] for place in places])
    expected = [
        (i, j)
        for i, one in enumerate(places)
        for j, other in enumerate(places)
        if i < j and one[0] == other[0]
    ]
    assert found == expected


photo = st.tuples(
    st.sampled_from("abc"),
    st.integers(0, PICTURES - 1),
    st.sampled_from(VARIANTS),
    st.sampled_from([None, None, "p", "q", "r"]),
    st.sampled_from([None, None, "train", "test"]),
)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(st.lists(photo, min_size=4, max_size=14), st.integers(0, 9))
def test_no_person_and_no_picture_is_on_both_sides(pool, picture_of, drawn, seed):
    photos = [SourcePhoto(pool[n, v], c, subject, split) for c, n, v, subject, split in drawn]
    with TemporaryDirectory() as scratch:
        try:
            cases.run(CasesConfig(source="x"), photos=photos, seed=seed, out_dir=Path(scratch))
        except InputError:
            assume(False)  # fewer than two classes are left
        kept = cases.load(Path(scratch)).cases
        aside = cases.quarantine(Path(scratch))
    # Nothing vanishes.
    assert len(kept) + len(aside) == len(photos)
    sides, subjects, classes = defaultdict(set), defaultdict(set), defaultdict(set)
    for case in kept:
        sides[case.subject_id].add(case.split)
        subjects[picture_of[case.case_id]].add(case.subject_id)
        classes[picture_of[case.case_id]].add(case.class_id)
    assert all(len(found) == 1 for found in sides.values())
    assert all(len(found) == 1 for found in subjects.values())
    assert all(len(found) == 1 for found in classes.values())
    # What the source puts into training is never held out, nor the other way round.
    named = {(n, c): set() for c, n, *_ in drawn}
    for class_id, number, _, _, split in drawn:
        named[number, class_id].add(split)
    for case in kept:
        assert named[picture_of[case.case_id], case.class_id] != (
            {"test"} if case.split == "train" else {"train"}
        )
    examples = [
        Example(Path(case.case_id), case.class_id, case.subject_id, False)
        for case in kept
        if case.split == "train"
    ]
    groups = {example.group for example in examples}
    if len({example.class_id for example in examples}) < 2 or len(groups) < 2:
        return
    for halves in folds(examples, min(3, len(groups)), seed):
        one, two = (
            {(e.group, picture_of[e.path.name]) for e in (examples[i] for i in half)}
            for half in halves
        )
        assert not {group for group, _ in one} & {group for group, _ in two}
        assert not {number for _, number in one} & {number for _, number in two}


def imported(out_dir, *photos):
    out_dir.mkdir()
    cases.run(CasesConfig(source="x"), photos=photos, seed=0, out_dir=out_dir)
    return cases.load(out_dir), cases.quarantine(out_dir)


def test_a_held_out_near_duplicate_is_set_aside_and_training_stays_as_it_is(pool, tmp_path):
    """The digests on which all else hangs are those of the import without it."""
    train = [SourcePhoto(pool[n, "as it is"], "ab"[n % 2], split="train") for n in range(4)]
    held_out = SourcePhoto(pool[5, "as it is"], "a", split="test")
    leaking = SourcePhoto(pool[0, "half the size"], "a", split="test")
    _, aside = imported(tmp_path / "one", *train, held_out)
    assert not aside
    case_set, aside = imported(tmp_path / "two", *train, held_out, leaking)
    assert [entry.reason for entry in aside] == [LEAK]
    assert "a" in case_set.lost
    assert cases.parts(tmp_path / "one") == cases.parts(tmp_path / "two")


def test_near_duplicates_of_two_classes_are_both_set_aside(pool, tmp_path):
    photos = [SourcePhoto(pool[n, "as it is"], "ab"[n % 2]) for n in range(4)]
    doubtful = SourcePhoto(pool[0, "compressed"], "b")
    case_set, aside = imported(tmp_path / "set", *photos, doubtful)
    assert [(entry.class_id, entry.reason) for entry in aside] == [
        ("a", NEAR_CLASH),
        ("b", NEAR_CLASH),
    ]
    assert len(case_set.cases) == 3


def test_a_new_photo_of_somebody_held_out_is_held_out(pool, tmp_path):
    """By the person's name, or because it is nearly the same picture."""
    known = [
        SourcePhoto(pool[0, "as it is"], "a", "anna", "test"),
        SourcePhoto(pool[1, "as it is"], "a", "bert", "test"),
        *(SourcePhoto(pool[n, "as it is"], "ab"[n % 2], None, "train") for n in (2, 3, 4)),
    ]
    new = [
        SourcePhoto(pool[5, "as it is"], "a", "anna"),
        SourcePhoto(pool[1, "compressed"], "a"),
    ]
    case_set, aside = imported(tmp_path / "set", *known, *new)
    assert not aside
    assert len(case_set.test()) == 4
