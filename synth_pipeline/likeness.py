"""How alike two pictures are, by measures that a copy cannot easily escape together.

* `hash`: a perceptual hash of the whole picture, which survives scaling, recompression and colour;
* `pixels`: the correlation of small grey pictures;
* `face`: the same of the face alone, turned upright and cut out by its landmarks, so that neither
  framing nor background hides it, and without what all faces have in common;
* `landmarks`: the mesh after position, scale and rotation are taken away: expression and pose are
  in it, which two photos hardly share;
* `embedding`: the features of a pretrained network, where one is asked for.

Distances are 0 for the same picture. Those of face and landmarks are not-a-number without a face,
and all of them for a file that cannot be read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from synth_pipeline.phantom.mesh import load_mesh
from synth_pipeline.stored_pictures import DamagedPictureError, read_picture

#: From N files to (N, D) features of length 1.
Look = Callable[[Sequence[Path]], np.ndarray]
MEASURES = ("hash", "pixels", "face", "landmarks", "embedding")

_HASH_PX = 32
_HASH_SIDE = 8
_SMALL_PX = 32
_FACE_PX = 32
#: The cut-out is drawn this much larger and then averaged, so that fine patterns do not flicker.
_OVERSAMPLED = 4
#: Where the outer eye corners' middle and the mouth corners' middle come to lie, as shares of the
#: cut-out: about the whole face from the brows to the chin.
_EYES_AT, _MOUTH_AT = 0.32, 0.76
_EYE_CORNERS, _MOUTH_CORNERS = (33, 133, 362, 263), (61, 291)
_MESH_POINTS = 468


@dataclass(frozen=True)
class Described:
    """What is compared of N pictures.

    Attributes:
        readable: (N,) bool, false for a damaged file.
        hashes: (N,) uint64.
        small: (N, 1024) float32, each of mean 0 and length 1.
        faces: (N, 1024) float32 as `small`, of the upright face; not-a-number without one.
        shapes: (N, 468, 2) float64, around the origin with size 1; not-a-number without a face.
        features: (N, D) float64 of length 1, or none where no network was asked.
    """

    readable: np.ndarray
    hashes: np.ndarray
    small: np.ndarray
    faces: np.ndarray
    shapes: np.ndarray
    features: np.ndarray | None = None


def mirror_table(landmark_model: Path) -> np.ndarray:
    """(468,) which point of the mesh lies across from each: the canonical mesh is symmetric."""
    vertices = load_mesh(landmark_model).vertices
    apart = np.linalg.norm(vertices[:, None] * (-1, 1, 1) - vertices, axis=2)
    return apart.argmin(1)


def describe(
    images: Sequence[Path],
    points_px: np.ndarray,
    *,
    mirror: np.ndarray | None = None,
    look: Look | None = None,
) -> Described:
    """Read pictures once and keep what is compared.

    Args:
        images: N files.
        points_px: (N, 478, 3) pixels, not-a-number where there is no face.
        mirror: (468,) of `mirror_table`, to describe the pictures with left and right changed over.
        look: gives the features of files (`appearance`), which mirrors hardly change.

    Raises:
        StageError: a file's bytes cannot be read, so that nothing is known of it.
    """
    count = len(images)
    readable = np.zeros(count, bool)
    hashes = np.zeros(count, np.uint64)
    small = np.full((count, _SMALL_PX**2), np.nan, np.float32)
    faces = np.full((count, _FACE_PX**2), np.nan, np.float32)
    shapes = np.full((count, _MESH_POINTS, 2), np.nan)
    for place, path in enumerate(images):
        try:
            grey = read_picture(path, "L")
        except DamagedPictureError:
            continue
        readable[place] = True
        flat = points_px[place, :_MESH_POINTS, :2].astype(np.float64)
        if mirror is not None:
            grey = grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            flat = flat[mirror] * (-1, 1) + (grey.width, 0)
        hashes[place] = _perceptual_hash(grey)
        small[place] = _standardised(_shrunk(grey, _SMALL_PX))
        if np.isfinite(flat).all():
            faces[place] = _standardised(_upright_face(grey, flat))
            centred = flat - flat.mean(0)
            shapes[place] = centred / max(float(np.sqrt((centred**2).sum())), 1e-9)
    features = None
    if look and readable.any():
        found = look([path for path, good in zip(images, readable, strict=True) if good])
        features = np.full((count, found.shape[1]), np.nan)
        features[readable] = found
    return Described(readable, hashes, small, faces, shapes, features)


def distances(a: Described, b: Described, common_face: np.ndarray) -> dict[str, np.ndarray]:
    """By measure (N, M) distances of N pictures to M others; `embedding` where both were looked at.

    Args:
        a: N pictures.
        b: M pictures.
        common_face: (1024,) of `mean_face`.
    """
    bits = np.bitwise_count(a.hashes[:, None] ^ b.hashes).astype(np.float64)
    found = {
        "hash": np.where(a.readable[:, None] & b.readable, bits, np.nan),
        "pixels": 1 - (a.small @ b.small.T).astype(np.float64),
        "face": 1 - (_own(a.faces, common_face) @ _own(b.faces, common_face).T).astype(np.float64),
        "landmarks": _shape_distances(a.shapes, b.shapes),
    }
    if a.features is not None and b.features is not None:
        found["embedding"] = 1 - a.features @ b.features.T
    return found


def mean_face(*described: Described) -> np.ndarray:
    """(1024,) what faces have in common; zero where there are none."""
    faces = np.concatenate([each.faces for each in described])
    faces = faces[np.isfinite(faces[:, 0])]
    return faces.mean(0) if len(faces) else np.zeros(_FACE_PX**2, np.float32)


def _own(faces: np.ndarray, common: np.ndarray) -> np.ndarray:
    """What a face has that others have not; length 1."""
    rest = faces - common
    return rest / np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-6)


def _shape_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) distance after the best rotation: of complex shapes it has a closed form.

    Dryden and Mardia 2016, section 4.2.
    """
    a_NP = (a[..., 0] + 1j * a[..., 1]).astype(np.complex64)
    b_MP = (b[..., 0] + 1j * b[..., 1]).astype(np.complex64)
    return np.sqrt(np.maximum(1 - np.abs(a_NP @ b_MP.conj().T).astype(np.float64) ** 2, 0))


def _upright_face(grey: Image.Image, flat: np.ndarray) -> np.ndarray:
    """(32, 32) the face, its eyes and mouth where everybody's are."""
    eyes, mouth = flat[list(_EYE_CORNERS)].mean(0), flat[list(_MOUTH_CORNERS)].mean(0)
    side = _FACE_PX * _OVERSAMPLED
    # One complex factor turns and scales: the way from the eyes to the mouth is to be vertical.
    down = complex(*(mouth - eyes)) / (1j * (_MOUTH_AT - _EYES_AT) * side)
    start = complex(*eyes) - down * complex(side / 2, _EYES_AT * side)
    matrix = (down.real, -down.imag, start.real, down.imag, down.real, start.imag)
    drawn = grey.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return _shrunk(drawn, _FACE_PX)


def _shrunk(grey: Image.Image, side_px: int) -> np.ndarray:
    return np.asarray(grey.resize((side_px, side_px), Image.Resampling.BOX), np.float32)


def _standardised(pixels: np.ndarray) -> np.ndarray:
    centred = pixels.ravel() - pixels.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


def _perceptual_hash(grey: Image.Image) -> np.uint64:
    """64 bits: signs of low frequencies against their median (Zauner 2010, section 3.2.1)."""
    pixels = np.asarray(grey.resize((_HASH_PX, _HASH_PX), Image.Resampling.LANCZOS), np.float64)
    low = _COSINES @ pixels @ _COSINES.T
    bits = (low > np.median(low.ravel()[1:])).ravel()
    return np.packbits(bits).view(">u8")[0]


def _cosines() -> np.ndarray:
    """The first eight rows of a 32-point discrete cosine transform; (8, 32)."""
    k, n = np.arange(_HASH_SIDE)[:, None], np.arange(_HASH_PX)
    return np.cos(np.pi * (n + 0.5) * k / _HASH_PX)


_COSINES = _cosines()
