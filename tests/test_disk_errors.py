"""What a full disk makes libraries say, and what we say instead."""

import gc
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from synth_pipeline import checkpoints
from synth_pipeline.disk_errors import check_room, explained, is_full, release, reserve
from synth_pipeline.errors import DiskError, InputError
from synth_pipeline.manifest import Output, Recipe
from synth_pipeline.store import Store, write_in_one_step

NOISE = np.random.default_rng(0).integers(0, 255, (512, 1024, 4), np.uint8)

#: Two megabytes, as each library writes them.
WRITERS = {
    "plain": lambda path: path.write_bytes(NOISE.tobytes()),
    "in one step": lambda path: write_in_one_step(path, NOISE.tobytes()),
    "numpy": lambda path: np.save(path, NOISE),
    "pillow": lambda path: Image.fromarray(NOISE).save(path, "PNG"),
    "torch": lambda path: torch.save(torch.from_numpy(NOISE), path),
    "state": lambda path: checkpoints.save(path, {"w": torch.from_numpy(NOISE)}),
    "safetensors": lambda path: save_file({"w": torch.from_numpy(NOISE)}, path),
    "parquet": lambda path: pq.write_table(
        pa.table({"x": np.random.default_rng(0).random(1 << 18)}), path
    ),
}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", place]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def small_files():
    """No file may have more than 64 KB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def stage(store: Store, write) -> None:
    def body(out_dir: Path) -> Output:
        write(out_dir / "file")
        return Output()

    store.make(Recipe("sampling", "noonan", 1, {}, {}, {}), body)


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_one_sentence_whoever_meets_it(library, small_disk):
    with pytest.raises(DiskError, match=r"No space left on device.*make room") as error:
        stage(Store(small_disk / "store"), WRITERS[library])
    assert "\n" not in str(error.value)
    # It holds what torch was writing, and that the bytes of a file that is gone.
    del error
    gc.collect()
    assert not list(small_disk.glob("store/sampling/*"))
    assert not list(small_disk.glob("store/sampling/.*"))
    stage(Store(small_disk / "store"), lambda path: path.write_text("fits"))


@pytest.mark.parametrize("library", WRITERS)
def test_a_limit_of_files_is_one_sentence(library, tmp_path, small_files):
    with pytest.raises(DiskError, match="ulimit"):
        stage(Store(tmp_path / "store"), WRITERS[library])
    assert not list(tmp_path.glob("store/sampling/.*"))


def test_too_many_open_files_are_one_sentence(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    store = Store(tmp_path / "store")
    stage(store, lambda path: path.write_text("x"))
    used = len(list(Path("/proc/self/fd").iterdir()))
    opened = []

    def write(path: Path) -> None:
        for number in range(used + 64):
            opened.append(path.with_name(f"{number}").open("w"))

    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 32, before[1]))
    try:
        with pytest.raises(DiskError, match="open files"):
            store.make(Recipe("copies", "", 1, {}, {}, {}), lambda out: write(out / "x"))
    finally:
        for each in opened:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_read_only_disk_and_a_file_in_the_way_are_wrong_places(small_disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(InputError, match="Read-only file system"):
        stage(Store(small_disk / "store"), lambda path: path.write_text("x"))
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(InputError, match="cannot be written"):
            stage(Store(place), lambda path: path.write_text("x"))


def test_an_error_of_another_place_is_not_blamed_on_the_store(tmp_path):
    def read(_):
        (tmp_path / "there").mkdir()
        (tmp_path / "there").read_bytes()

    with pytest.raises(IsADirectoryError):
        stage(Store(tmp_path / "store"), read)
    with pytest.raises(ZeroDivisionError), explained("The folder", tmp_path):
        raise ZeroDivisionError


def test_room_is_asked_for_before_anything_is_written(small_disk, tmp_path, small_files):
    with pytest.raises(DiskError, match="MB left"):
        check_room(small_disk / "not" / "there")
    with pytest.raises(DiskError, match="ulimit -f"):
        check_room(tmp_path)


def test_open_files_are_allowed_as_many_as_the_machine_gives(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 1024:
        pytest.skip("this machine gives few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        check_room(tmp_path)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_held_back_makes_room(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "none", place]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        reserve(place)
        assert not is_full(place)
        with (place / "ballast").open("wb") as ballast, pytest.raises(OSError, match="No space"):
            while True:
                ballast.write(bytes(1 << 16))
        assert is_full(place)
        release(place)
        assert not is_full(place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
