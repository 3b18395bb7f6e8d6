"""The same photo twice: nobody may be trained on and tested with.

It may come again smaller, compressed, mirrored, turned, cropped or in a border. Near-duplicates of
one class show one person, whatever the source says; across classes one of the two diagnoses is
wrong. What is held out by the source but shows somebody in training is set aside: it would flatter,
and to set the training photo aside would let the held-out ones into the training.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synth_pipeline.fingerprints import Fingerprints, fingerprints

NEAR_CLASH = "shows nearly the same picture as a photo of another class"
LEAK = "is held out, but shows a person (or nearly a picture) that training photos show"
#: Correlations of detail; docs/decisions/0023 has the figures.
SAME_FACE = 0.9
#: Where pictures of small faces are the same, the faces are at least so much alike.
SAME_SMALL_FACE = 0.8
#: How much of the detail of an eighth by an eighth of the picture may differ; and where no face
#: was found that could be compared.
WORST_TILE, WORST_TILE_FACELESS = 0.1, 0.04
#: From the eyes to the mouth, as a share of the picture. The tiles see larger ones.
SMALL_FACE = 0.05
#: Of pictures half as wide and high; their tiles decide.
_NEARLY_SAME_PICTURE = 0.95
_TILE_PX = 8
#: Of the most detailed tile: where there is less, noise decides.
_LEAST_DETAIL = 0.05
#: What compression changes, in squared levels of grey, of which there are 256.
_NOISE = 6.0
_ROWS = 512


@dataclass(frozen=True)
class Shown:
    """A photo: whom it shows, and on which side it is where the source tells."""

    case_id: str
    class_id: str
    subject_id: str
    split: str | None
    path: Path


def settle(
    photos: Sequence[Shown], landmark_model: Path | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Decide who is the same person, and which photos must be set aside.

    Args:
        photos: of all classes.
        landmark_model: see `near_duplicates`.

    Returns:
        Case id to the reason why it is set aside; and of the others to the subject's id, which
        near-duplicates share: the first by name.
    """
    alike = near_duplicates([photo.path for photo in photos], landmark_model)
    aside: dict[str, str] = {}
    for a, b in alike:
        if photos[a].class_id != photos[b].class_id:
            held_out = [photos[place] for place in (a, b) if photos[place].split == "test"]
            if len(held_out) == 1:
                aside.setdefault(held_out[0].case_id, LEAK)
            else:
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


def near_duplicates(
    files: Sequence[Path], landmark_model: Path | None = None
) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of files that show one photo.

    It may be made smaller, compressed, mirrored or turned by quarters; and with `landmark_model`
    also cropped, turned by any angle or put into a border.

    Args:
        files: readable images.
        landmark_model: `face_landmarker.task`; without it only whole pictures are compared.

    Raises:
        StageError: a file cannot be read, or no worker can look for faces.
    """
    return pairs(fingerprints(files, landmark_model))


def pairs(prints: Fingerprints) -> list[tuple[int, int]]:
    """As `near_duplicates`, of photos that were looked at."""
    found: set[tuple[int, int]] = set()
    count = len(prints.pictures)
    for start in range(0, count, _ROWS):
        places = np.argwhere(alike(prints.rows(slice(start, start + _ROWS)), prints))
        found |= {(int(i) + start, int(j)) for i, j in places if i + start < j}
    return sorted(found)


def alike(a: Fingerprints, b: Fingerprints) -> np.ndarray:
    """(N, M) bool: which of N photos show the same photo as which of M others.

    Either the faces are the same in their detail; or the pictures are, everywhere.
    """
    both = a.has_face[:, None] & b.has_face
    faces = np.maximum(_correlation(a.faces, b.faces), _correlation(a.faces, b.faces[:, :, ::-1]))
    same = both & (faces >= SAME_FACE)
    small = np.minimum(a.face_shares[:, None], b.face_shares) < SMALL_FACE
    other = both & small & (faces < SAME_SMALL_FACE)
    worst = np.where(both, WORST_TILE, WORST_TILE_FACELESS)
    coarse_a, coarse_b = _halved(a.pictures), _halved(b.pictures)
    for change in _CHANGES:
        near = _correlation(coarse_a, change(coarse_b)) >= _NEARLY_SAME_PICTURE
        for i, j in np.argwhere(near & ~same & ~other):
            one, two = a.pictures[i], change(b.pictures[j, None])[0]
            contrast = float(np.sqrt(a.contrasts[i] * b.contrasts[j]))
            same[i, j] = _worst_tile(one, two, contrast) <= worst[i, j]
    return same


def _worst_tile(one: np.ndarray, two: np.ndarray, contrast: float) -> float:
    """The largest share of a tile's detail that differs.

    Args:
        one: of length 1.
        two: of length 1.
        contrast: standard deviation of their detail, in levels of grey.
    """
    square_of_level = contrast**2 * one.size
    differing = np.maximum(_tiles((one - two) ** 2) * square_of_level - _NOISE, 0)
    detail = _tiles(one**2 + two**2) * (square_of_level / 2)
    return float((differing / (detail + _LEAST_DETAIL * detail.max() + 1e-6)).max())


def _tiles(picture: np.ndarray) -> np.ndarray:
    across = picture.shape[0] // _TILE_PX
    return picture.reshape(across, _TILE_PX, across, _TILE_PX).mean((1, 3))


#: What (N, S, S) pictures become when they are mirrored and turned by quarters.
_CHANGES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda pictures: pictures,
    lambda pictures: pictures[:, :, ::-1],
    lambda pictures: pictures[:, ::-1],
    lambda pictures: pictures[:, ::-1, ::-1],
    lambda pictures: pictures.transpose(0, 2, 1),
    lambda pictures: pictures.transpose(0, 2, 1)[:, :, ::-1],
    lambda pictures: pictures.transpose(0, 2, 1)[:, ::-1],
    lambda pictures: pictures.transpose(0, 2, 1)[:, ::-1, ::-1],
)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    pixels = a.shape[1] * a.shape[2]
    return a.reshape(len(a), pixels) @ b.reshape(len(b), pixels).T


def _halved(pictures: np.ndarray) -> np.ndarray:
    """Half as wide and high, of length 1: enough to tell what cannot be the same."""
    count, side, _ = pictures.shape
    small = pictures.reshape(count, side // 2, 2, side // 2, 2).mean((2, 4))
    length = np.linalg.norm(small, axis=(1, 2), keepdims=True)
    return small / np.maximum(length, 1e-6)


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
