"""A study that reads the registry: sides as registered, and a new case touches its class alone."""

import pyarrow.parquet as pq
import pytest

from synth_pipeline.config import load_config
from synth_pipeline.errors import InputError
from synth_pipeline.study import Study
from tests.command_line import STUDY


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(STUDY.format(source="''").replace("format: csv", "format: registry"))
    return path


def opened(desk, config, *changes) -> Study:
    study = Study(load_config(config, list(changes)), desk.root)
    study.make(study.cases())
    return study


def filled(desk, config):
    for number in range(12):
        desk.drop(f"{'abc'[number % 3]}/{number}.png")
    desk.ingest()
    return opened(desk, config)


def test_cases_are_as_registered(desk, config):
    study = filled(desk, config)
    registered = {e.case_id: (e.class_id, e.split, e.sha256) for e in desk.registry.entries}
    assert {c.case_id: (c.class_id, c.split, c.sha256) for c in study.case_set.cases} == registered
    assert study.expected_classes() == ["a", "b", "c"]
    assert study.case_set.test(), "nothing is held out, so nothing is shown"


def test_sides_are_decided_once_whatever_the_study_says_later(desk, config):
    before = filled(desk, config)
    after = Study(load_config(config, ["seed=9", "cases.test_fraction=0.9"]), desk.root)
    assert after.graph.resolve(after.cases()).looked.status == "cached"
    assert after.graph.artifact(after.cases()).key == before.graph.artifact(before.cases()).key


def keys(study, stage):
    return {
        name: study.graph.resolve(getattr(study, stage)(name)).recipe.key
        for name in study.case_set.classes
    }


def test_a_new_training_photo_changes_one_class_and_a_held_out_one_none(desk, config):
    study = filled(desk, config)
    seen = set()
    # Until newcomers came to both sides.
    for number in range(6):
        desk.drop(f"b/new {number}.png")
        desk.ingest()
        side = desk.registry.entries[-1].split
        later = opened(desk, config)
        old, new = keys(study, "landmarks_real"), keys(later, "landmarks_real")
        changed = {name for name in old if old[name] != new[name]}
        assert changed == ({"b"} if side == "train" else set())
        assert later.graph.artifact(later.cases()).key != study.graph.artifact(study.cases()).key
        seen.add(side)
        study = later
    assert seen == {"train", "test"}


def test_a_new_class_is_a_class_of_the_study(desk, config):
    before = filled(desk, config)
    desk.drop("Brand new/1.png")
    desk.ingest()
    after = opened(desk, config)
    assert after.case_set.classes == ("a", "b", "brand-new", "c")
    old, new = keys(before, "landmarks_real"), keys(after, "landmarks_real")
    assert {name for name in new if old.get(name) != new[name]} == {"brand-new"}


def test_max_classes_takes_the_first_by_name(desk, config):
    filled(desk, config)
    assert opened(desk, config, "cases.max_classes=2").case_set.classes == ("a", "b")


def test_a_photo_that_was_changed_stops_the_study(desk, config):
    filled(desk, config)
    image = desk.registry.image(desk.registry.entries[0])
    image.write_bytes(image.read_bytes()[:-1])
    study = Study(load_config(config, ["cases.max_classes=2"]), desk.root)
    with pytest.raises(InputError, match="was changed or is gone"):
        study.make(study.cases())
    assert not list((desk.root / "store" / "cases").glob(".new*"))


def test_one_class_is_not_enough(desk, config):
    for number in range(3):
        desk.drop(f"a/{number}.png")
    desk.ingest()
    with pytest.raises(InputError, match="fewer than two classes"):
        opened(desk, config)


def test_no_name_of_the_inbox_reaches_the_store(desk, config):
    desk.drop("a/Jane Doe/Jane Doe 1.png")
    desk.drop("b/Jane Doe 2.png")
    desk.ingest()
    study = opened(desk, config)
    for path in study.store.root.rglob("*"):
        assert not path.is_file() or b"Jane" not in path.read_bytes()
    assert (
        pq.read_table(study.graph.artifact(study.cases()).path / "quarantine.parquet").num_rows == 0
    )
