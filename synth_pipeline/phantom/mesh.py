"""MediaPipe's canonical face mesh, read out of the landmark model's own file."""

import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from synth_pipeline.errors import InputError

_MEMBER = "geometry_pipeline_metadata_landmarks.binarypb"
VERTICES, TRIANGLES = 468, 898

# Rings of vertices that outline what is drawn as an area; the numbering is MediaPipe's.
LIPS_OUTER = (
    61,
    146,
    91,
    181,
    84,
    17,
    314,
    405,
    321,
    375,
    291,
    409,
    270,
    269,
    267,
    0,
    37,
    39,
    40,
    185,
)
LIPS_INNER = (
    78,
    95,
    88,
    178,
    87,
    14,
    317,
    402,
    318,
    324,
    308,
    415,
    310,
    311,
    312,
    13,
    82,
    81,
    80,
    191,
)
# Lower lid from the outer to the inner corner, then the upper lid back.
EYES = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
)
BROWS = (
    (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
)
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
NOSE_TIP, NOSE_BASE, NOSE_BRIDGE, CHIN, FOREHEAD = 4, 2, 6, 152, 10
NOSTRILS = (141, 370)
CHEEKS = (50, 280)


@dataclass(frozen=True)
class Mesh:
    """The canonical face.

    Attributes:
        vertices: (468, 3) float64, centimetres; x to the face's left, y up, z to the camera.
        triangles: (898, 3) int64, indices of vertices.
    """

    vertices: np.ndarray
    triangles: np.ndarray


@lru_cache(maxsize=2)
def load_mesh(landmark_model: Path) -> Mesh:
    """Read the canonical mesh from `face_landmarker.task`.

    Raises:
        InputError: the file holds no such mesh.
    """
    try:
        with zipfile.ZipFile(landmark_model) as archive:
            metadata = archive.read(_MEMBER)
        # Field 1 of the metadata is the mesh: field 3 its vertices, field 4 its indices.
        mesh = next(v for n, v in _fields(metadata) if n == 1 and isinstance(v, bytes))
        vertex_buffer = b"".join(v for n, v in _fields(mesh) if n == 3 and isinstance(v, bytes))
        floats = np.frombuffer(vertex_buffer, "<f4")
        if not vertex_buffer:
            floats = np.array([v for n, v in _fields(mesh) if n == 3], np.float32)
        indices: list[int] = []
        for number, value in _fields(mesh):
            if number == 4:
                indices += _varints(value) if isinstance(value, bytes) else [int(value)]
        # A vertex has five numbers: its place, and its place in a texture, which we do not use.
        vertices = floats.reshape(VERTICES, 5)[:, :3].astype(np.float64)
        triangles = np.array(indices, np.int64).reshape(TRIANGLES, 3)
    except (OSError, KeyError, ValueError, StopIteration, zipfile.BadZipFile):
        raise InputError(
            f"{landmark_model} holds no canonical face mesh; run `synth-pipeline doctor --fetch`."
        ) from None
    return Mesh(vertices, triangles)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _varints(data: bytes) -> list[int]:
    at, found = 0, []
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _fields(data: bytes) -> list[tuple[int, bytes | int | float]]:
    """The fields of a protocol-buffer message, in order, as (number, raw value)."""
    at = 0
    found: list[tuple[int, bytes | int | float]] = []
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            found.append((number, value))
        elif wire == 2:
            size, at = _varint(data, at)
            found.append((number, data[at : at + size]))
            at += size
        elif wire == 5:
            found.append((number, float(np.frombuffer(data, "<f4", 1, at)[0])))
            at += 4
        else:
            at += 8
    return found
