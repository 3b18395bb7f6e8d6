"""The same photo twice, resized or compressed again: nobody may be trained on and tested with.

Near-duplicates of one class show one person, whatever the source says; across classes one of the
two diagnoses is wrong. What is held out by the source but shows somebody in training is set aside:
it would flatter, and to set the training photo aside would let the held-out ones into the training.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synth_pipeline import likeness

NEAR_CLASH = "shows nearly the same picture as a photo of another class"
LEAK = "is held out, but shows a person (or nearly a picture) that training photos show"
#: Both must hold. Of 150 photos, each made a third as large and JPEG of quality 40, or of quality
#: 10 alone, 99 % lie nearer; of 103,000 pairs that are not the same photo (442 of LFW, 102 taken
#: in one studio) none does: the nearest have 0.041 and 10 bits, and 0.079 and 4 bits.
SAME_BITS = 6
SAME_PIXELS = 0.03
_ROWS = 512


@dataclass(frozen=True)
class Shown:
    """A photo: whom it shows, and on which side it is where the source tells."""

    case_id: str
    class_id: str
    subject_id: str
    split: str | None
    path: Path


def settle(photos: Sequence[Shown]) -> tuple[dict[str, str], dict[str, str]]:
    """Decide who is the same person, and which photos must be set aside.

    Args:
        photos: of all classes.

    Returns:
        Case id to the reason why it is set aside; and of the others to the subject's id, which
        near-duplicates share: the first by name.
    """
    alike = near_duplicates([photo.path for photo in photos])
    aside: dict[str, str] = {}
    for a, b in alike:
        if photos[a].class_id != photos[b].class_id:
            aside |= {photos[a].case_id: NEAR_CLASH, photos[b].case_id: NEAR_CLASH}
    subjects = _joined(photos, alike, aside)
    sides: dict[str, set[str | None]] = defaultdict(set)
    for photo in photos:
        if photo.case_id in subjects:
            sides[subjects[photo.case_id]].add(photo.split)
    for photo in photos:
        subject = subjects.get(photo.case_id)
        if subject and photo.split == "test" and "train" in sides[subject]:
            aside[photo.case_id] = LEAK
    # Once more, so that nothing of the others' subjects hangs on what was set aside.
    return aside, _joined(photos, alike, aside)


def near_duplicates(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of files that show one picture, mirrored or not.

    Args:
        files: readable images.
    """
    no_face = np.full((len(files), 478, 3), np.nan)
    seen = likeness.describe(files, no_face)
    mirrored = likeness.describe(files, no_face, mirror=np.arange(468))
    found = []
    for start in range(0, len(files), _ROWS):
        rows = slice(start, start + _ROWS)
        for other in (seen, mirrored):
            bits = np.bitwise_count(seen.hashes[rows, None] ^ other.hashes)
            apart = 1 - seen.small[rows] @ other.small.T
            near = np.argwhere((bits <= SAME_BITS) & (apart <= SAME_PIXELS))
            found += [(int(i) + start, int(j)) for i, j in near]
    return sorted({(i, j) for i, j in found if i < j})


def _joined(
    photos: Sequence[Shown], alike: Iterable[tuple[int, int]], aside: dict[str, str]
) -> dict[str, str]:
    """Case id to subject id, where subjects with photos alike are one."""
    first: dict[str, str] = {photo.subject_id: photo.subject_id for photo in photos}

    def root(subject: str) -> str:
        while first[subject] != subject:
            subject = first[subject]
        return subject

    for a, b in alike:
        if photos[a].case_id not in aside and photos[b].case_id not in aside:
            one, other = sorted((root(photos[a].subject_id), root(photos[b].subject_id)))
            first[other] = one
    return {p.case_id: root(p.subject_id) for p in photos if p.case_id not in aside}
