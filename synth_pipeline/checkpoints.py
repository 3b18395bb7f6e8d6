"""State of a long computation, kept so that a killed one goes on where it was.

A state is a file of torch, a ZIP archive, with the SHA-256 of all its bytes as the archive's
comment. What is cut short, changed, of another kind or not written by us is set aside with a
warning, and the computation begins anew: a state saves time, and decides no result.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pickle
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from synth_pipeline.store import canonical_json, write_in_one_step

logger = logging.getLogger("synth_pipeline")

#: Length in bytes of the archive's comment, a SHA-256 in hexadecimal digits; and how an archive
#: says so, just before.
_SEAL_BYTES = 64
_SEALED = struct.pack("<H", _SEAL_BYTES)
#: A file that stays unreadable. Other errors of reading pass, and say nothing of the state.
_UNREADABLE = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENOTDIR}


class _DamagedError(Exception):
    """A file that is no state of ours; its text says why."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state that is seen whole or not at all.

    Args:
        path: its folder exists.
        state: tensors, numbers, texts, and lists and dicts of them.

    Raises:
        OSError: the disk is full; the state that was there is as it was.
    """
    beside = _beside(path)
    try:
        with beside.open("w+b") as stream:
            torch.save(state, stream)
            _seal(stream)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        beside.unlink(missing_ok=True)
        if isinstance(error.__context__, OSError):
            # torch complains of its own file when the disk refuses the bytes of it.
            raise error.__context__ from None
        raise


def load(path: Path, identity: str) -> dict[str, Any] | None:
    """Read a state; none where there is none, a damaged one, or one of another computation.

    What a killed process left half-written of it is removed: a state has one writer.

    Args:
        path: as saved.
        identity: what the state's `identity` must say.

    Raises:
        OSError: the disk does not answer; the state may be sound.
    """
    with contextlib.suppress(IsADirectoryError):
        _beside(path).unlink(missing_ok=True)
    try:
        state = _read(path)
    except FileNotFoundError:
        return None
    except _DamagedError as error:
        set_aside(path, str(error))
        return None
    return state if state.get("identity") == identity else None


def save_values(path: Path, values: Any) -> None:
    """Write plain JSON values with their checksum, seen whole or not at all."""
    digest = hashlib.sha256(canonical_json(values)).hexdigest()
    write_in_one_step(path, canonical_json({"sha256": digest, "values": values}))


def load_values(path: Path) -> Any:
    """Read what `save_values` wrote; none where there is nothing, or it is damaged."""
    try:
        _check_kind(path)
        known = json.loads(path.read_bytes())
        if known["sha256"] != hashlib.sha256(canonical_json(known["values"])).hexdigest():
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        set_aside(path, "it is cut short or was changed")
        return None
    except _DamagedError as error:
        set_aside(path, str(error))
        return None
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        set_aside(path, os.strerror(error.errno))
        return None
    return known["values"]


def set_aside(path: Path, reason: str) -> None:
    """Move a state away that cannot be used, so that the computation begins anew.

    Args:
        path: the state; it lies beside its place afterwards, under a name that ends in `.damaged`.
        reason: what is wrong with it.
    """
    logger.warning(
        "the saved state %s cannot be used (%s); it was renamed to %s.damaged, and this step "
        "begins anew",
        f"{path.parent.name}/{path.name}",
        reason,
        path.name,
    )
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
    except OSError:
        # What was set aside before is a folder, or this is one.
        path.rename(path.with_name(f"{path.name}.{os.getpid()}.damaged"))


def are_alike(saved: Any, ours: Any) -> bool:
    """Whether two values have the same structure, and tensors the same shapes and types."""
    if isinstance(ours, torch.Tensor):
        same = isinstance(saved, torch.Tensor) and saved.shape == ours.shape
        return same and saved.dtype == ours.dtype
    if isinstance(ours, Mapping):
        same = isinstance(saved, Mapping) and saved.keys() == ours.keys()
        return same and all(are_alike(saved[name], ours[name]) for name in ours)
    if isinstance(ours, list | tuple):
        same = isinstance(saved, list | tuple) and len(saved) == len(ours)
        return same and all(map(are_alike, saved, ours))
    if isinstance(ours, float | int):
        return isinstance(saved, float | int)
    return isinstance(saved, type(ours))


def are_numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers."""
    return isinstance(values, list) and all(
        isinstance(value, float | int) and abs(value) < float("inf") for value in values
    )


def fits(optimiser: torch.optim.Optimizer, saved: Any) -> bool:
    """Whether an optimiser's saved state is of the same parameters."""
    ours = optimiser.state_dict()["param_groups"]
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    if not isinstance(saved, Mapping) or saved.keys() != {"state", "param_groups"}:
        return False
    if not are_alike(saved["param_groups"], ours) or not isinstance(saved["state"], Mapping):
        return False
    return all(
        isinstance(number, int)
        and 0 <= number < len(weights)
        and isinstance(moments, Mapping)
        and all(
            value.dim() == 0 or value.shape == weights[number].shape
            for value in moments.values()
            if isinstance(value, torch.Tensor)
        )
        for number, moments in saved["state"].items()
    )


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _seal(stream: IO[bytes]) -> None:
    """Put the hash of an archive into its comment."""
    end = stream.seek(-len(_SEALED), os.SEEK_END)
    digest = _digest(stream, end)
    stream.seek(end)
    stream.write(_SEALED + digest)


def _read(path: Path) -> dict[str, Any]:
    """Read a sealed state.

    Raises:
        _DamagedError: it is none.
        OSError: the disk does not answer, or there is no such file.
    """
    _check_kind(path)
    try:
        with path.open("rb") as stream:
            size_bytes = stream.seek(0, os.SEEK_END)
            end = size_bytes - _SEAL_BYTES - len(_SEALED)
            if end < 0:
                raise _DamagedError("it is cut short")
            stream.seek(end)
            if stream.read() != _SEALED + _digest(stream, end):
                raise _DamagedError("it is cut short or was changed")
            stream.seek(0)
            # Tensors and plain values only: a planted pickle is refused.
            state = torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno in _UNREADABLE:
            raise _DamagedError(os.strerror(error.errno)) from None
        raise
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError):
        raise _DamagedError("it holds something else than tensors and plain values") from None
    except RuntimeError as error:
        if "memory" in str(error):
            raise
        raise _DamagedError("it is no archive of torch") from None
    if not isinstance(state, dict):
        raise _DamagedError("it is of another kind")
    return state


def _check_kind(path: Path) -> None:
    """Opening a pipe would wait for ever.

    Raises:
        _DamagedError: the path is no file.
        FileNotFoundError: there is nothing.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise _DamagedError("it is no file")


def _digest(stream: IO[bytes], end: int) -> bytes:
    """SHA-256 of a stream's first bytes, in hexadecimal digits."""
    found = hashlib.sha256()
    stream.seek(0)
    left = end
    while left and (read := stream.read(min(left, 1 << 22))):
        found.update(read)
        left -= len(read)
    return found.hexdigest().encode()
