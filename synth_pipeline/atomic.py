"""Files and folders that are seen whole or not at all, and what killed processes left of them.

Everything is written beside its place, under a name that begins with a dot, and moved there in one
step. Whoever writes holds a kernel lock on it, which is free the moment that the process is gone:
what nobody holds is a leftover. So any process may sweep, whoever else is at work.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

#: How `tempfile.mkstemp` ends the name of a file that is written beside its place.
_BESIDE = re.compile(r"\..+-[a-z0-9_]{8}")
_HALF_MADE, _HELD = ".half-made-", ".held"
#: From the making of a file or folder to its lock; nobody needs as long.
_YOUNG_S = 60.0


def write_in_one_step(path: Path, content: bytes) -> None:
    """Write a file that is seen whole or not at all; one that is the same is left alone.

    Raises:
        OSError: the disk is full, for instance; the file that was there is as it was.
    """
    if path.is_file() and path.read_bytes() == content:
        return
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as stream:
            _hold(stream.fileno())
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    fsync(path.parent)


@contextlib.contextmanager
def half_made(parent: Path) -> Iterator[Path]:
    """A folder of mode 700 that goes away at the end.

    Args:
        parent: where it is made; it exists. Leftovers of killed processes in it are swept.
    """
    sweep_half_made(parent)
    folder = parent / f"{_HALF_MADE}{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o700)
    try:
        with open(folder / _HELD, "wb", opener=_private) as lock:
            _hold(lock.fileno())
            # A sweeper removes what has content only: so the lock always comes first.
            lock.write(b"held\n")
            lock.flush()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """A folder of mode 700 that comes to its place when it is complete.

    Args:
        place: absent, or an empty folder, which may be where another disk is mounted. What killed
            processes left beside it or in it is swept.

    Raises:
        OSError: it cannot be written.
    """
    inside = place.is_dir()
    if not inside:
        place.parent.mkdir(parents=True, exist_ok=True)
    with half_made(place if inside else place.parent) as folder:
        yield folder
        (folder / _HELD).unlink()
        if inside:
            for path in sorted(folder.iterdir()):
                path.rename(place / path.name)
        else:
            folder.rename(place)
            fsync(place.parent)


def sweep_half_made(parent: Path) -> int:
    """Remove the folders that killed processes left; returns how many."""
    removed = 0
    for folder in _below(parent):
        if not folder.name.startswith(_HALF_MADE) or not _is_folder(folder):
            continue
        if (folder / _HELD).exists():
            if not _is_left(folder / _HELD):
                continue
        elif not _is_old(folder):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        removed += 1
    return removed


def sweep_beside(parent: Path) -> int:
    """Remove the files that killed processes left of `write_in_one_step`; returns how many."""
    removed = 0
    for path in _below(parent):
        if _BESIDE.fullmatch(path.name) and _is_left(path):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def fsync(path: Path) -> None:
    """Wait until a file or a folder lies on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _below(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.name.startswith(".")]
    except OSError:
        return []


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _hold(handle: int) -> None:
    # Where a file system has no locks, nobody sweeps.
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)


def _is_left(path: Path) -> bool:
    """Whether a file is nobody's any more: its lock is free, though it was written to."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return found.st_size > 0 or _is_old(path)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > _YOUNG_S
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
