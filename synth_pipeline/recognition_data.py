"""Pictures for the recognisers: decoded and resized once, and cut into folds."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from synth_pipeline.errors import InputError


@dataclass(frozen=True)
class Example:
    """A training image.

    Attributes:
        group: examples of one group (a person) are never on both sides of a fold.
    """

    path: Path
    class_id: str
    group: str
    synthetic: bool


def folds(
    examples: Sequence[Example], count: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut examples into folds: by class, whole groups, each example validated exactly once.

    Groups are dealt out class after class without starting again at the first fold, so small
    classes (4.4 photos to 5 folds in RDFace) do not all leave the same fold empty.

    Args:
        examples: of all classes; their order does not matter to who is with whom.
        count: number of folds, at least 2.
        seed: of the dealing.

    Returns:
        For each fold the indices to train on and to validate on, both ascending.

    Raises:
        InputError: one class, or fewer groups than folds.
    """
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, example in enumerate(examples):
        groups[example.class_id][example.group].append(place)
    total = sum(len(members) for members in groups.values())
    if len(groups) < 2:
        raise InputError("A recogniser needs images of at least two classes.")
    if total < count:
        raise InputError(
            f"recognition.folds is {count}, but there are only {total} different people or "
            "images to train on; lower it."
        )
    validated = np.zeros(len(examples), np.int64)
    dealt = 0
    for class_id in sorted(groups):
        members = groups[class_id]
        order = sorted(
            members,
            key=lambda group: hashlib.sha256(f"{seed}\0{class_id}\0{group}".encode()).digest(),
        )
        for group in order:
            validated[members[group]] = dealt % count
            dealt += 1
    everything = np.arange(len(examples))
    return [(everything[validated != f], everything[validated == f]) for f in range(count)]


def read_pictures(paths: Sequence[Path], size_px: int) -> np.ndarray:
    """(N, 3, size, size) uint8 sRGB, padded to squares with grey; kept for the next fold.

    Raises:
        InputError: a file cannot be read.
    """
    return _read_pictures(tuple(paths), size_px)


# Five folds of a run ask for the same pictures; the held-out ones are asked for by every run.
@lru_cache(maxsize=3)
def _read_pictures(paths: tuple[Path, ...], size_px: int) -> np.ndarray:
    pictures = np.empty((len(paths), 3, size_px, size_px), np.uint8)
    for place, path in enumerate(paths):
        try:
            with Image.open(path) as opened:
                square = ImageOps.pad(
                    opened.convert("RGB"),
                    (size_px, size_px),
                    method=Image.Resampling.BICUBIC,
                    color=(128, 128, 128),
                )
        except OSError:
            raise InputError(
                f"A stored image of {path.parent.parent.parent.name} cannot be read; "
                "run the study again, and it is made anew."
            ) from None
        pictures[place] = np.asarray(square).transpose(2, 0, 1)
    return pictures
