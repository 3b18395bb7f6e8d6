"""A command's root folder: looked at before anything is written, made private, and swept."""

import os
from collections.abc import Iterator
from pathlib import Path

from synth_pipeline import disk_errors, private_root
from synth_pipeline.folder_check import check_folder
from synth_pipeline.private_root import PREFECT, SCRATCH, STORE, STUDIES


def only_for_us() -> None:
    """What this process and those that it starts will make is for its owner only."""
    os.umask(private_root.UMASK)


def check_root(root: Path, study: str = "", *, written: bool = True) -> None:
    """See that a root can be used; writes nothing.

    Args:
        root: an absolute path; it need not be there.
        study: name of the study; none for no study in particular.
        written: whether it will be written to.

    Raises:
        InputError: a file, a dangling link or a right that is missing is in the way.
        DiskError: there is no room.
    """
    for folder in _folders(root, study):
        check_folder(folder, "--root", written=written)
    if written:
        disk_errors.check_room(root)


def open_root(root: Path) -> int:
    """Make what is under a root private, and remove what killed commands left.

    Args:
        root: one that `check_root` has passed.

    Returns:
        How much was removed.
    """
    only_for_us()
    private_root.make_private(root)
    return private_root.sweep(root)


def _folders(root: Path, study: str) -> Iterator[Path]:
    yield root
    for name in (STORE, f"{STORE}/.locks", f"{STORE}/.pictures", STUDIES, PREFECT, SCRATCH):
        yield root / name
    if study:
        yield root / STUDIES / study
        yield root / STUDIES / study / "history"
