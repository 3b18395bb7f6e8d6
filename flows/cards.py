"""Which GPUs this machine has, and which worker gets which.

Torch is not asked: it takes seconds.
"""

import os
import subprocess
from dataclasses import dataclass

from synth_pipeline.errors import InputError

#: What a class of an SD 1.5 base needs at 512 px with a LoRA (docs/decisions/0009-memory.md).
_SLOT_GIB = 8.0


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        name: what `CUDA_VISIBLE_DEVICES` calls it.
        memory_gib: all of its memory.
    """

    name: str
    memory_gib: float


def cards() -> list[Card]:
    """The NVIDIA GPUs of this machine that we may use; empty without any."""
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in told.splitlines() if line]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if allowed is None else [name.strip() for name in allowed.split(",")]
    return [
        Card(index, float(memory_mib) / 1024)
        for index, uuid, memory_mib in rows
        if wanted is None or index in wanted or uuid in wanted
    ]


def shared_out(found: list[Card], workers: int | None, slots: int) -> list[Card | None]:
    """A GPU for each worker, in turn; none of them where there is none.

    Raises:
        InputError: the GPUs' memory does not hold so many at a time.
    """
    count = workers if workers is not None else max(len(found), 1)
    if not found:
        return [None] * count
    places = [found[number % len(found)] for number in range(count)]
    for card in found:
        at_once = slots * places.count(card)
        if at_once > 1 and at_once * _SLOT_GIB > card.memory_gib:
            raise InputError(
                f"GPU {card.name} has {card.memory_gib:.0f} GiB, too little for {at_once} classes "
                f"at a time (about {_SLOT_GIB:.0f} GiB each); give fewer --workers or --slots."
            )
    return list(places)
