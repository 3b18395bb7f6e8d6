"""What a photo looks like, in two small pictures of its detail: of the whole, and of the face.

Detail, because a plain background says nothing of who stands before it: what is broader than a
feature of the face is taken away, and what is finer than a compressed copy keeps. The face is cut
out upright by its landmarks, so neither cropping nor turning nor a border changes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from synth_pipeline.face_workers import sightings, workers_for
from synth_pipeline.stored_pictures import DamagedPictureError, read_picture

PICTURE_PX = 128
FACE_PX = 64
#: Widths of the Gaussians: broader than the second is background, finer than the first is noise.
_FINEST_PX, _BROADEST_PX = 1.0, 4.0
#: A picture without as much detail, on a scale of 0 to 255, shows nothing.
_LEAST_DETAIL = 0.2
#: Where the outer eye corners' middle and the mouth corners' middle come to lie, as shares of the
#: cut-out: about the whole face from the brows to the chin.
_EYES_AT, _MOUTH_AT = 0.32, 0.76
_EYE_CORNERS, _MOUTH_CORNERS = (33, 133, 362, 263), (61, 291)
#: The cut-out is drawn this much larger and then averaged.
_OVERSAMPLED = 2


@dataclass(frozen=True)
class Fingerprints:
    """Detail of N photos.

    Attributes:
        pictures: (N, 128, 128) float32, each of mean 0 and length 1; all zero for a photo without
            any detail, or that cannot be read.
        contrasts: (N,) float32: standard deviation of that detail before, in levels of grey.
        faces: (N, 64, 64) float32 likewise, of the upright face; all zero without a face.
        face_shares: (N,) float32: from the eyes to the mouth, as a share of the picture's longer
            side; zero without a face.
    """

    pictures: np.ndarray
    contrasts: np.ndarray
    faces: np.ndarray
    face_shares: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def has_face(self) -> np.ndarray:
        """(N,) bool."""
        return self.face_shares > 0

    def rows(self, chosen: slice) -> "Fingerprints":
        """Those of some of the photos."""
        return Fingerprints(
            self.pictures[chosen],
            self.contrasts[chosen],
            self.faces[chosen],
            self.face_shares[chosen],
        )


def joined(prints: Sequence[Fingerprints]) -> Fingerprints:
    """Those of several, one after another; none of none."""
    if not prints:
        return fingerprints([], None)
    return Fingerprints(
        *(
            np.concatenate([getattr(each, name) for each in prints])
            for name in Fingerprints.__dataclass_fields__
        )
    )


def fingerprints(files: Sequence[Path], landmark_model: Path | None) -> Fingerprints:
    """Look at photos.

    Args:
        files: N sanitised photos.
        landmark_model: `face_landmarker.task`; without it no face is looked for.

    Raises:
        StageError: a file cannot be read, or no worker can look for faces.
    """
    points_px = _landmarks(files, landmark_model)
    pictures = np.zeros((len(files), PICTURE_PX, PICTURE_PX), np.float32)
    faces = np.zeros((len(files), FACE_PX, FACE_PX), np.float32)
    contrasts, face_shares = np.zeros((2, len(files)), np.float32)
    for place, path in enumerate(files):
        try:
            grey = read_picture(path, "L")
        except DamagedPictureError:
            continue
        small = grey.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC, reducing_gap=3)
        pictures[place], contrasts[place] = _detail(np.asarray(small, np.float32), _PICTURE_BAND)
        points = points_px[place]
        if points is not None:
            eyes, mouth = _eyes_and_mouth(points)
            faces[place], _ = _detail(_upright_face(grey, eyes, mouth), _FACE_BAND)
            face_shares[place] = np.linalg.norm(mouth - eyes) / max(grey.size)
    return Fingerprints(pictures, contrasts, faces, face_shares)


def _landmarks(files: Sequence[Path], model: Path | None) -> list[np.ndarray | None]:
    """(478, 2) pixels of each photo's largest face, or none."""
    if model is None or not files:
        return [None] * len(files)
    with sightings(model, files, confidence=False, workers=workers_for(len(files))) as seen:
        return [each.face.points_px[:, :2] if each.face else None for each in seen]


def _eyes_and_mouth(points_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middles of the eyes and of the mouth, each (2,) float64 pixels."""
    points_px = points_px.astype(np.float64)
    return points_px[list(_EYE_CORNERS)].mean(0), points_px[list(_MOUTH_CORNERS)].mean(0)


def _upright_face(grey: Image.Image, eyes: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """(64, 64) float32: the face, its eyes and mouth where everybody's are."""
    side = FACE_PX * _OVERSAMPLED
    apart = (_MOUTH_AT - _EYES_AT) * side
    # A large face is made smaller first: drawing it takes single pixels.
    smaller = int(np.linalg.norm(mouth - eyes) / apart)
    if smaller > 1:
        grey = grey.reduce(smaller)
        eyes, mouth = eyes / smaller, mouth / smaller
    # One complex factor turns and scales: the way from the eyes to the mouth is to be vertical.
    down = complex(*(mouth - eyes)) / (1j * apart)
    start = complex(*eyes) - down * complex(side / 2, _EYES_AT * side)
    matrix = (down.real, -down.imag, start.real, down.imag, down.real, start.imag)
    drawn = grey.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(drawn.resize((FACE_PX, FACE_PX), Image.Resampling.BOX), np.float32)


def _detail(pixels: np.ndarray, band: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float]:
    """A picture's detail, of mean 0 and length 1, and its standard deviation before."""
    fine, broad = band
    detail = fine @ (pixels - broad @ pixels @ broad.T) @ fine.T
    detail -= detail.mean()
    length = float(np.linalg.norm(detail))
    contrast = length / pixels.shape[0]
    return (detail / length, contrast) if contrast > _LEAST_DETAIL else (np.zeros_like(detail), 0.0)


def _gaussian(side: int, width_px: float) -> np.ndarray:
    """(side, side) float32: blurs along one axis; at the edge the picture is mirrored."""
    reach = round(4 * width_px)
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / width_px) ** 2)
    blur = np.zeros((side, side))
    for row in range(side):
        places = (row + steps) % (2 * side)
        np.add.at(blur[row], np.where(places < side, places, 2 * side - 1 - places), weights)
    return (blur / weights.sum()).astype(np.float32)


def _band(side: int) -> tuple[np.ndarray, np.ndarray]:
    return _gaussian(side, _FINEST_PX), _gaussian(side, _BROADEST_PX)


_PICTURE_BAND, _FACE_BAND = _band(PICTURE_PX), _band(FACE_PX)
