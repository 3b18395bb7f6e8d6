"""State of a long computation, kept so that a killed one goes on where it was."""

import os
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state that is seen whole or not at all.

    Args:
        path: its folder exists.
        state: tensors, numbers, texts, and lists and dicts of them.

    Raises:
        OSError: the disk is full; the state that was there is as it was.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as stream:
            torch.save(state, stream)
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
    """Read a state; none where there is none, or one of another computation.

    Args:
        path: as saved.
        identity: what the state's `identity` must say.
    """
    try:
        # Tensors and plain values only: a planted pickle is refused.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    return state if state.get("identity") == identity else None
