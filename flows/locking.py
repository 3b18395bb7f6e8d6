"""A study is run by one process at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from synth_pipeline.errors import InputError


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a study's lock; the kernel frees it however the process ends.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0, mode=0o600):
            yield
    except Timeout:
        root = folder.parent.parent
        raise InputError(
            f"The study {folder.name} is being run by another process under {root}; "
            "wait for it, or give another --root."
        ) from None
    except PermissionError:
        root = folder.parent.parent
        raise InputError(f"{root} cannot be written; choose another --root.") from None


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
