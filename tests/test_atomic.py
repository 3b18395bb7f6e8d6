"""What is written beside its place: seen whole or not at all, and swept when nobody holds it."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synth_pipeline.atomic import (
    half_made,
    new_folder,
    sweep_beside,
    sweep_half_made,
    write_in_one_step,
)

#: Stops in the middle of the writing, says so, and waits for a line.
WRITE = """
import os, pathlib, sys
from synth_pipeline import atomic
real = os.fsync
def fsync(handle):
    print("writing", flush=True)
    sys.stdin.readline()
    real(handle)
os.fsync = fsync
atomic.write_in_one_step(pathlib.Path(sys.argv[1]), b"content")
"""
MAKE = """
import pathlib, sys
from synth_pipeline import atomic
with atomic.new_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "file").write_text("content")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def begin(program: str, path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.mark.parametrize(("program", "sweep"), [(WRITE, sweep_beside), (MAKE, sweep_half_made)])
def test_leftovers_of_the_dead_are_swept_and_the_living_are_left_alone(tmp_path, program, sweep):
    dead, living = begin(program, tmp_path / "dead"), begin(program, tmp_path / "living")
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    others = {".gitignore", ".notes-12345678.txt", ".env-production", "report-abcdefgh"}
    for name in others:
        (tmp_path / name).write_text("the user's")
    (tmp_path / ".folder-abcdefgh").mkdir()
    (tmp_path / ".linked-abcdefgh").symlink_to(tmp_path / ".gitignore")
    assert len(list(tmp_path.iterdir())) == len(others) + 4
    assert sweep(tmp_path) == 1
    assert sweep(tmp_path) == 0
    living.communicate("\n")
    assert living.returncode == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == others | {"living", ".folder-abcdefgh", ".linked-abcdefgh"}


def test_an_existing_folder_is_filled_and_what_a_killed_one_left_in_it_goes(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    dead = begin(MAKE, place)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert [path.name.startswith(".half-made-") for path in place.iterdir()] == [True]
    with new_folder(place) as folder:
        (folder / "file").write_text("again")
    assert [path.name for path in place.iterdir()] == ["file"]
    assert (place / "file").read_text() == "again"


def test_a_folder_that_fails_is_gone(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a" / "place") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        raise ZeroDivisionError
    assert list((tmp_path / "a").iterdir()) == []
    with half_made(tmp_path) as folder:
        (folder / "x").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside(tmp_path):
    path = tmp_path / "file"
    write_in_one_step(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_in_one_step(path, bytes(1 << 14))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
