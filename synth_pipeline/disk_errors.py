"""What a disk answers when it is full, closed, or not what a path says: one sentence each.

Libraries say it in many ways: with an `OSError`, with one of their own behind which it stands, or
with a text that holds its number.
"""

import contextlib
import errno
import os
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from synth_pipeline.errors import DiskError, InputError, SynthPipelineError

#: It may go well when there is room: what to do about each.
_NO_ROOM = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room, or have your quota raised",
    errno.EFBIG: "allow larger files (`ulimit -f unlimited`)",
    errno.EMFILE: "allow more open files (`ulimit -n 4096`)",
    errno.ENFILE: "close other programs: the machine has too many open files",
    errno.EIO: "look at the disk: it does not answer",
}
#: The place is wrong.
_REFUSED = {
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EBUSY,
    errno.EXDEV,
}
#: How Rust ("Os { code: 28, ...", "(os error 28)") and Arrow ("[Errno 28]") write a number.
_NUMBER = re.compile(r"(?:code: |os error |\[Errno )(\d+)")
#: numpy and torch tell no number when the disk takes only a part.
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written|PytorchStreamWriter|inline_container")
#: A smaller disk does not even hold Prefect's database and a stage's files.
LEAST_BYTES = 32 << 20
_LEAST_FILES = 256
_RESERVE, _RESERVE_BYTES = ".reserve", 8 << 20
_PROBE, _PROBE_BYTES = ".room", 1 << 20


def number_of(error: BaseException) -> int | None:
    """The number of the disk's answer that stands behind an error; none if there is none."""
    seen: set[int] = set()
    here: BaseException | None = error
    while here is not None and id(here) not in seen:
        seen.add(id(here))
        known = _NO_ROOM.keys() | _REFUSED
        if isinstance(here, OSError) and here.errno in known:
            return here.errno
        # A library's own error; a sentence of ours may quote what it likes.
        if not isinstance(here, SynthPipelineError):
            if (found := _NUMBER.search(str(here))) and int(found[1]) in known:
                return int(found[1])
            if _CUT_SHORT.search(str(here)):
                return errno.ENOSPC if _largest_bytes() is None else errno.EFBIG
        here = here.__cause__ or here.__context__
    return None


def sentence_of(error: BaseException, place: str) -> SynthPipelineError | None:
    """The error that says what the disk answered; none if it is none of the disk's.

    Args:
        error: whatever was raised.
        place: what could not be written, such as "the store /data/results/store".
    """
    number = number_of(error)
    if number is None:
        return None
    why = os.strerror(number)
    if number in _NO_ROOM:
        return DiskError(
            f"{place} cannot be written ({why}); {_NO_ROOM[number]}, then run the same command "
            "again: what was finished is kept."
        )
    return InputError(f"{place} cannot be written ({why}); choose another place.")


@contextlib.contextmanager
def explained(what: str, folder: Path) -> Iterator[None]:
    """Turn what a disk answers into one sentence; every other error goes on as it is.

    Args:
        what: what people call the folder, such as "The store".
        folder: a right that is missing elsewhere is none of its faults.

    Raises:
        DiskError: no room, or too many open files.
        InputError: a protected disk, or a file where a folder belongs.
    """
    try:
        yield
    except SynthPipelineError:
        raise
    except Exception as error:
        told = sentence_of(error, f"{what} {folder}")
        if told is None or (number_of(error) in _REFUSED and _is_elsewhere(error, folder)):
            raise
        raise told from None


def _is_elsewhere(error: BaseException, folder: Path) -> bool:
    name = getattr(error, "filename", None)
    if not isinstance(name, str | bytes):
        return False
    place = Path(os.fsdecode(name))
    # A folder's own parents may be what refuses it.
    return not (place.is_relative_to(folder) or folder.is_relative_to(place))


def check_room(folder: Path) -> None:
    """See that there is room before anything is written.

    Args:
        folder: to be written to; it need not be there yet.

    Raises:
        DiskError: the disk is as good as full, or the process may not write large files or open
            many.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free_bytes = shutil.disk_usage(there).free
    if free_bytes < LEAST_BYTES:
        raise DiskError(
            f"The disk of {folder} has {free_bytes >> 20} MB left, and a run needs at least "
            f"{LEAST_BYTES >> 20} MB; make room on it, or choose another place."
        )
    largest_bytes = _largest_bytes()
    if largest_bytes is not None and largest_bytes < LEAST_BYTES:
        raise DiskError(
            f"Files may have {largest_bytes >> 10} KB only here; allow larger ones "
            "(`ulimit -f unlimited`)."
        )
    _allow_files()


def _largest_bytes() -> int | None:
    """How large a file may get; none for any size."""
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if largest == resource.RLIM_INFINITY else largest


def reserve(folder: Path) -> None:
    """Hold some megabytes, which `release` gives back when the disk is full.

    So that whoever keeps account of a run (Prefect's database) can write how it ended.
    """
    path = folder / _RESERVE
    with contextlib.suppress(OSError), path.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, _RESERVE_BYTES)


def release(folder: Path) -> None:
    """Give back what `reserve` holds."""
    (folder / _RESERVE).unlink(missing_ok=True)


def is_full(folder: Path) -> bool:
    """Whether a small file can no longer be written to a folder."""
    path = folder / _PROBE
    try:
        path.write_bytes(bytes(_PROBE_BYTES))
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return False


def _allow_files() -> None:
    """Take as many open files as the machine gives.

    Raises:
        DiskError: it gives too few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        raise DiskError(
            f"Only {soft} files may be open at a time here; allow more (`ulimit -n 4096`)."
        )
