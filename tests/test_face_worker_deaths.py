"""A process that dies while it looks for faces says nothing about the picture it looked at."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synth_pipeline import face_workers, landmarks, likeness
from synth_pipeline.errors import StageError
from synth_pipeline.stored_pictures import DamagedPictureError, read_picture
from tests.test_landmarks import workers

# A process of its own: a limit of memory cannot be lifted again.
SMALL = """
import json, resource, sys
from pathlib import Path
from synth_pipeline import landmarks
from synth_pipeline.errors import StageError

model, photos, out_dir, limit_mb = sys.argv[1:]
limit = int(limit_mb) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
files = json.loads(photos)
try:
    done = landmarks.run([(str(n), Path(f)) for n, f in enumerate(files)], model=Path(model),
                         out_dir=Path(out_dir), class_id="kapido", real_photos=True, workers=2)
    print(json.dumps(done))
except StageError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def images(phantom_files):
    files = [path for paths in phantom_files.values() for path in paths]
    return [(f"case-{number}", path) for number, path in enumerate(files)]


@pytest.fixture
def killer():
    """Kills every worker as soon as it is seen, until the test ends."""
    stop = threading.Event()
    killed: set[int] = set()

    def work() -> None:
        while not stop.wait(0.01):
            for pid in workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

    thread = threading.Thread(target=work)
    thread.start()
    yield killed
    stop.set()
    thread.join()


def _run(images, model, out_dir, **more):
    out_dir.mkdir()
    return landmarks.run(
        images, model=model, out_dir=out_dir, class_id="kapido", real_photos=True, **more
    )


def test_workers_that_are_always_killed_fail_the_stage(killer, images, landmark_model, tmp_path):
    with pytest.raises(StageError, match=r"SIGKILL.*3 times.*memory.*run the same command again"):
        _run(images, landmark_model, tmp_path / "out", workers=2)
    # Each of the two, and then one at a time.
    assert len(killer) >= 3


def test_a_picture_that_kills_its_worker_is_named_and_the_others_are_not(
    images, landmark_model, tmp_path
):
    """A pipe opens for its writer when a worker reads it: that worker is killed, and no other."""
    poison = tmp_path / "poison.png"
    os.mkfifo(poison)
    stop = threading.Event()

    def kill_readers() -> None:
        while not stop.is_set():
            with poison.open("wb"):
                for pid in workers():
                    with suppress(OSError):
                        if str(poison) in _opened(pid):
                            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_readers, daemon=True)
    thread.start()
    try:
        with pytest.raises(StageError, match="image case-poison of class kapido"):
            _run(
                [*images[:3], ("case-poison", poison), *images[3:5]],
                landmark_model,
                tmp_path / "out",
                workers=2,
            )
    finally:
        stop.set()
        os.close(os.open(poison, os.O_RDONLY | os.O_NONBLOCK))
        thread.join(timeout=60)


def _opened(pid: int) -> list[str]:
    return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]


@pytest.mark.parametrize("limit_mb", [820])
def test_with_too_little_memory_no_photo_loses_its_face(limit_mb, images, landmark_model, tmp_path):
    files = json.dumps([str(path) for _, path in images[:4]])
    done = subprocess.run(
        [sys.executable, "-c", SMALL, str(landmark_model), files, str(tmp_path), str(limit_mb)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    if isinstance(said, str):
        assert "memory" in said
    else:
        assert said == {"images": 4, "found": 4, "unreadable": 0}


def test_a_disk_that_fails_is_no_damaged_picture(images, landmark_model, tmp_path):
    """Reading a folder is an error that even root gets; so is a file that is gone."""
    folder = tmp_path / "folder.png"
    folder.mkdir()
    for place in (folder, tmp_path / "gone.png"):
        with pytest.raises(StageError, match="cannot be read"):
            _run([*images[:1], ("bad", place)], landmark_model, tmp_path / place.stem)
        with pytest.raises(StageError, match="cannot be read"):
            likeness.describe([place], np.full((1, 478, 3), np.nan))


def test_memory_that_runs_out_is_no_damaged_picture(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (6000, 6000)).save(path)
    work = """
import resource, sys
from pathlib import Path
from synth_pipeline.stored_pictures import read_picture
resource.setrlimit(resource.RLIMIT_DATA, (90 << 20, 90 << 20))
try:
    read_picture(Path(sys.argv[1]))
except MemoryError:
    print("memory")
"""
    done = subprocess.run(
        [sys.executable, "-c", work, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "memory\n", done.stderr
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DamagedPictureError):
        read_picture(path)


def test_idle_workers_that_were_killed_are_replaced(images, landmark_model, tmp_path):
    _run(images[:2], landmark_model, tmp_path / "first", workers=1)
    for pid in workers():
        os.kill(pid, signal.SIGKILL)
    again = _run(images[:2], landmark_model, tmp_path / "second", workers=1)
    assert again["found"] == 2
    assert len(face_workers._IDLE) >= 1
