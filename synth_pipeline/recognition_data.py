"""What the recognisers learn from, cut into folds."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synth_pipeline.errors import InputError


@dataclass(frozen=True)
class Example:
    """A training image.

    Attributes:
        group: examples of one group (a person) are never on both sides of a fold.
        sha256: of the file's bytes, where it is known.
    """

    path: Path
    class_id: str
    group: str
    synthetic: bool
    sha256: str = ""


def check_folds(scale: int, count: int) -> None:
    """Refuse a number of synthetic images that cannot be cut into folds, before any is made.

    Args:
        scale: images that the smallest run trains on.
        count: number of folds.

    Raises:
        InputError: a fold would have fewer than two images to train on.
    """
    if scale < count or scale - math.ceil(scale / count) < 2:
        raise InputError(
            f"The smallest of selection.scales is {scale} images in all, too few for "
            f"recognition.folds={count}; raise selection.scales or sampling.images_per_class, or "
            "lower recognition.folds."
        )


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
