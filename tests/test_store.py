"""The store: what is published is whole, what is damaged is found, what is left behind is swept."""

import json
import multiprocessing
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth_pipeline.errors import DiskError, InputError
from synth_pipeline.store import MANIFEST, Output, Recipe, Store, write_in_one_step


def recipe(**changes):
    values = {
        "stage": "sampling",
        "label": "noonan",
        "version": 1,
        "parameters": {"steps": 3},
        "inputs": {"dreambooth": "ab" * 32},
        "libraries": {"torch": "2.15.0"},
    }
    return Recipe(**(values | changes))


def body(out_dir: Path) -> Output:
    (out_dir / "images").mkdir()
    (out_dir / "images" / "00000.png").write_bytes(b"pixels")
    (out_dir / "samples.parquet").write_bytes(b"table")
    return Output(parts={"first": "12"}, measurements={"seconds": 1.5})


def test_second_make_runs_nothing(tmp_path):
    made, executed = Store(tmp_path).make(recipe(), body)
    again, executed_again = Store(tmp_path).make(recipe(), body)
    assert (executed, executed_again) == (True, False)
    assert again == made
    assert made.parts == {"first": "12"}
    assert json.loads((made.path / MANIFEST).read_text())["measurements"] == {"seconds": 1.5}


@pytest.mark.parametrize(
    "changes",
    [
        {"label": "turner"},
        {"version": 2},
        {"parameters": {"steps": 4}},
        {"inputs": {"dreambooth": "cd" * 32}},
        {"libraries": {"torch": "2.16.0"}},
    ],
)
def test_whatever_decides_the_content_changes_the_key(changes):
    assert recipe(**changes).key != recipe().key


@given(
    st.permutations(["a", "b", "c", "d"]),
)
def test_order_of_parameters_does_not_change_the_key(names):
    assert (
        recipe(parameters=dict.fromkeys(names, 1)).key
        == recipe(parameters=dict.fromkeys("abcd", 1)).key
    )


def _delete(path):
    path.unlink()


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_delete, _truncate, _flip])
@pytest.mark.parametrize("name", ["images/00000.png", "samples.parquet", MANIFEST])
def test_damage_is_found_and_mended(tmp_path, name, damage):
    made, _ = Store(tmp_path).make(recipe(), body)
    damage(made.path / name)
    found = Store(tmp_path).look(recipe())
    assert found.status == "damaged"
    assert name in found.reason
    again, executed = Store(tmp_path).make(recipe(), body)
    assert executed
    assert again.digest == made.digest
    assert Store(tmp_path).look(recipe()).status == "cached"


def test_damaged_file_leaves_the_content_known(tmp_path):
    made, _ = Store(tmp_path).make(recipe(), body)
    _delete(made.path / "samples.parquet")
    artifact = Store(tmp_path).look(recipe()).artifact
    assert artifact is not None
    assert artifact.digest == made.digest


def test_failed_body_leaves_nothing(tmp_path):
    def fail(out_dir):
        (out_dir / "half").write_bytes(b"x")
        raise InputError("no face in any photo.")

    with pytest.raises(InputError):
        Store(tmp_path).make(recipe(), fail)
    assert not list(tmp_path.glob("sampling/*")) and not list(tmp_path.glob("sampling/.*"))
    assert Store(tmp_path).look(recipe()).status == "missing"


def _make_and_die(root: str) -> None:
    def die(out_dir):
        (out_dir / "half").write_bytes(b"x")
        os._exit(9)

    Store(Path(root)).make(recipe(), die)


def test_killed_process_leaves_an_orphan_that_is_swept_and_no_lock(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=_make_and_die, args=(str(tmp_path),)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    store = Store(tmp_path)
    assert store.look(recipe()).status == "missing"
    assert len(list(tmp_path.glob("sampling/.new-*"))) == 1
    assert store.sweep() == 1
    assert not list(tmp_path.glob("sampling/.new-*"))
    assert store.make(recipe(), body)[1]


def test_sweep_leaves_what_is_being_made(tmp_path):
    def sweep_meanwhile(out_dir):
        assert Store(tmp_path).sweep() == 0
        return body(out_dir)

    assert Store(tmp_path).make(recipe(), sweep_meanwhile)[1]


def _make_slowly(root: str, counter: str) -> None:
    def slow(out_dir):
        with Path(counter).open("a") as stream:
            stream.write("ran\n")
        return body(out_dir)

    Store(Path(root)).make(recipe(), slow)


def test_two_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    counter = tmp_path / "counter"
    processes = [
        context.Process(target=_make_slowly, args=(str(tmp_path / "store"), str(counter)))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert counter.read_text() == "ran\n"


def test_store_is_private(tmp_path):
    made, _ = Store(tmp_path / "store").make(recipe(), body)
    for folder in (made.path, made.path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    def full(out_dir):
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match="No space left"):
        Store(tmp_path).make(recipe(), full)
    assert not list(tmp_path.glob("sampling/.*"))


def test_foreign_files_beside_are_no_damage(tmp_path):
    made, _ = Store(tmp_path).make(recipe(), body)
    (made.path / ".DS_Store").write_bytes(b"x")
    assert Store(tmp_path).look(recipe()).status == "cached"


def test_manifest_of_another_key_is_not_accepted(tmp_path):
    made, _ = Store(tmp_path).make(recipe(), body)
    other = recipe(label="turner")
    shutil.copytree(made.path, made.path.parent / other.key)
    assert Store(tmp_path).look(other).status == "damaged"


def test_write_in_one_step_leaves_the_same_content_alone(tmp_path):
    path = tmp_path / "report.html"
    write_in_one_step(path, b"one")
    before = path.stat().st_ino
    write_in_one_step(path, b"one")
    assert path.stat().st_ino == before
    write_in_one_step(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_outlives_a_failure_and_goes_with_the_publication(tmp_path):
    store = Store(tmp_path)

    def fail(out_dir):
        (store.work_dir(recipe()) / "state").write_text("step 3")
        raise RuntimeError("killed")

    def go_on(out_dir):
        assert (store.work_dir(recipe()) / "state").read_text() == "step 3"
        return body(out_dir)

    with pytest.raises(RuntimeError):
        store.make(recipe(), fail)
    assert store.work_dir(recipe()).stat().st_mode & 0o777 == 0o700
    assert store.sweep() == 0, "it was forgotten while somebody may still go on from it"
    made, _ = store.make(recipe(), go_on)
    assert [path.name for path in made.path.parent.iterdir()] == [made.path.name]


def test_a_state_that_nobody_went_on_from_is_swept(tmp_path):
    store = Store(tmp_path)
    store.make(recipe(), body)
    folder = store.work_dir(recipe())
    (folder / "state").write_text("a face")
    week_ago = time.time() - 8 * 24 * 3600
    for path in (folder / "state", folder):
        os.utime(path, (week_ago, week_ago))
    assert store.sweep() == 1
    assert not folder.exists()
