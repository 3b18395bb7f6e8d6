"""A study is run by one process at a time."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from synth_pipeline.errors import InputError

logger = logging.getLogger("synth_pipeline")


@contextlib.contextmanager
def only_run(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a study's lock; the kernel frees it however the process ends.

    Args:
        folder: of the study.
        wait: for a process that holds it, as long as that takes.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    root = folder.parent.parent
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            if not wait:
                raise
            logger.info("the study %s is being run by another process; waiting", folder.name)
            lock.acquire(timeout=-1)
    except Timeout:
        raise InputError(
            f"The study {folder.name} is being run by another process under {root}; "
            "wait for it, or give another --root."
        ) from None
    except PermissionError:
        raise InputError(f"{root} cannot be written; choose another --root.") from None
    try:
        _forget_leases(folder)
        yield
    finally:
        lock.release()


def _forget_leases(folder: Path) -> None:
    """Remove the leases of runs that ended, or died, while nobody waited for them any more."""
    for path in (folder / ".runs").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            # A living run writes to its lease every two seconds.
            if time.time() - path.stat().st_mtime > _FORGOTTEN_S:
                path.unlink()


_FORGOTTEN_S = 24 * 3600


@contextlib.contextmanager
def only_one_stack(root: Path) -> Iterator[None]:
    """Hold a root for `synth-pipeline up`.

    Raises:
        InputError: it is up already, or the root cannot be written.
    """
    home = root / "prefect"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(home / ".up", timeout=0, mode=0o600):
            yield
    except Timeout:
        raise InputError(
            f"`synth-pipeline up` is running for {root} already; stop it, or give another --root."
        ) from None
    except PermissionError:
        raise InputError(f"{root} cannot be written; choose another --root.") from None
