"""The measures of a face that dysmorphologists use, by name, from MediaPipe's mesh.

Distances follow Farkas (Anthropometry of the Head and Face, 1994) and the terms of Elements of
Morphology (Hall et al. 2009; Hunter et al. 2009; Carey et al. 2012; Hennekam et al. 2009), as far
as the mesh has the points: it has no ears and no hairline, and its top is the forehead's outline.
Where a measure exists on both sides it is their mean; how the sides differ is a measure of its own.
Nothing here hangs on where the face lies in the picture, how large it is, or which way it looks.
"""

import numpy as np

# Points of the mesh. A pair is (right, left) as the subject has them.
_INNER, _OUTER, _PUPIL = (133, 362), (33, 263), (468, 473)
_UPPER_LID, _LOWER_LID = (159, 386), (145, 374)
_BROW_IN, _BROW_MID, _BROW_OUT = (107, 336), (105, 334), (70, 300)
_ALA, _NOSTRIL, _BRIDGE = (129, 358), (98, 327), (193, 417)
_CREST, _MOUTH, _CHEEK, _ORBIT = (37, 267), (61, 291), (205, 425), (117, 346)
_ZYGION, _GONION, _TEMPLE, _FOREHEAD = (234, 454), (172, 397), (54, 284), (103, 332)
_CHIN_SIDE, _JAW = (148, 377), (136, 365)
_TOP, _GLABELLA, _SELLION, _RHINION, _TIP, _SUBNASALE = 10, 9, 168, 197, 1, 2
_LIP_TOP, _STOMION_UP, _STOMION_DOWN, _LIP_BOTTOM, _LABIOMENTAL, _CHIN = 0, 13, 14, 17, 18, 152
_POGONION = 199
_MESH = 468

#: Widths from one side to the other.
_WIDTHS = {
    "inner canthal distance": _INNER,
    "outer canthal distance": _OUTER,
    "interpupillary distance": _PUPIL,
    "distance between the brows": _BROW_IN,
    "nasal width": _ALA,
    "width between the nostrils": _NOSTRIL,
    "nasal bridge width": _BRIDGE,
    "philtrum width": _CREST,
    "mouth width": _MOUTH,
    "face width": _ZYGION,
    "jaw width": _GONION,
    "lower jaw width": _JAW,
    "chin width": _CHIN_SIDE,
    "temple width": _TEMPLE,
    "forehead width": _FOREHEAD,
}
#: Lengths along the midline.
_LENGTHS = {
    "forehead height": (_TOP, _GLABELLA),
    "face height": (_TOP, _CHIN),
    "lower face height": (_SUBNASALE, _CHIN),
    "nose length": (_SELLION, _SUBNASALE),
    "nasal tip protrusion": (_TIP, _SUBNASALE),
    "philtrum length": (_SUBNASALE, _LIP_TOP),
    "upper vermilion height": (_LIP_TOP, _STOMION_UP),
    "lower vermilion height": (_STOMION_DOWN, _LIP_BOTTOM),
    "mouth opening": (_STOMION_UP, _STOMION_DOWN),
    "chin height": (_LIP_BOTTOM, _CHIN),
}
#: Lengths on either side.
_SIDES = {
    "palpebral fissure length": (_INNER, _OUTER),
    "palpebral fissure height": (_UPPER_LID, _LOWER_LID),
    "brow height above the eye": (_BROW_MID, _UPPER_LID),
    "eyebrow length": (_BROW_IN, _BROW_OUT),
    "nostril wing length": (_ALA, _NOSTRIL),
    "eye to mouth corner": (_OUTER, _MOUTH),
    "jaw length": (_GONION, _CHIN_SIDE),
}
_FRAMED = (
    "palpebral fissure slant",
    "eyebrow arch",
    "mouth corners' height",
    "nasal bridge projection",
    "nasal ridge projection",
    "midface projection",
    "cheek projection",
    "chin projection",
    "upper lip projection",
    "nasolabial angle",
    "facial convexity",
    "asymmetry of the eyes' height",
    "asymmetry of the mouth corners' height",
    "asymmetry of the fissures' length",
)
NAMES = (*_WIDTHS, *_LENGTHS, *_SIDES, *_FRAMED)


def measure(points_px: np.ndarray) -> np.ndarray:
    """Measure faces.

    Args:
        points_px: (N, 478, 3) pixels, as `landmarks.load` gives them.

    Returns:
        (N, M) float64 in the order of `NAMES`: distances as the logarithm of their share of the
        face's size, which is the root mean square distance of the mesh's points from their
        centroid; projections and heights as a share of it; angles in radians.
    """
    faces = _upright(points_px.astype(np.float64))

    def at(point: int) -> np.ndarray:
        return faces[:, point]

    def middle(pair: tuple[int, int]) -> np.ndarray:
        return (at(pair[0]) + at(pair[1])) / 2

    def apart(a: int, b: int) -> np.ndarray:
        return np.linalg.norm(at(a) - at(b), axis=1)

    found = [apart(*pair) for pair in _WIDTHS.values()]
    found += [apart(*pair) for pair in _LENGTHS.values()]
    found += [
        (apart(one[0], other[0]) + apart(one[1], other[1])) / 2 for one, other in _SIDES.values()
    ]
    distances_NM = np.log(np.maximum(np.stack(found, axis=1), 1e-6))

    def height(pair: tuple[int, int]) -> np.ndarray:
        """(N, 2): of the right and the left point, upwards."""
        return -np.stack([at(pair[0])[:, 1], at(pair[1])[:, 1]], axis=1)

    def depth(point: np.ndarray, base: np.ndarray) -> np.ndarray:
        """Towards the viewer, over another point."""
        return base[:, 2] - point[:, 2]

    width = np.stack([apart(i, o) for i, o in zip(_INNER, _OUTER, strict=True)], axis=1)
    slant = np.arctan2(height(_OUTER) - height(_INNER), width)
    brow_chord = (height(_BROW_IN) + height(_BROW_OUT)) / 2
    mouth_mid = -(at(_STOMION_UP)[:, 1] + at(_STOMION_DOWN)[:, 1]) / 2
    framed = [
        slant.mean(1),
        (height(_BROW_MID) - brow_chord).mean(1),
        height(_MOUTH).mean(1) - mouth_mid,
        depth(at(_SELLION), middle(_INNER)),
        depth(at(_RHINION), middle(_INNER)),
        depth(middle(_ORBIT), middle(_OUTER)),
        depth(middle(_CHEEK), middle(_ZYGION)),
        depth(at(_POGONION), at(_SUBNASALE)),
        depth(at(_LIP_TOP), at(_SUBNASALE)),
        _angle(at(_TIP), at(_SUBNASALE), at(_LIP_TOP)),
        _angle(at(_GLABELLA), at(_SUBNASALE), at(_POGONION)),
        np.diff(height(_PUPIL))[:, 0],
        np.diff(height(_MOUTH))[:, 0],
        np.diff(width)[:, 0],
    ]
    return np.concatenate([distances_NM, np.stack(framed, axis=1)], axis=1)


def pose(points_px: np.ndarray) -> np.ndarray:
    """Which way faces look.

    Args:
        points_px: (N, 478, 3) pixels.

    Returns:
        (N, 3) degrees, zero from the front: yaw, to the subject's left; pitch, upwards; roll,
        clockwise in the picture.
    """
    x, _, z = _axes(_centred(points_px.astype(np.float64)))
    # z is the way from the viewer into the head.
    yaw = np.arctan2(-z[:, 0], z[:, 2])
    pitch = np.arcsin(np.clip(z[:, 1], -1, 1))
    roll = np.arctan2(x[:, 1], x[:, 0])
    return np.degrees(np.stack([yaw, pitch, roll], axis=1))


def _upright(points: np.ndarray) -> np.ndarray:
    """(N, 478, 3): in units of the face's size, and in axes of its own."""
    centred = _centred(points)
    axes = _axes(centred)
    return np.stack([(centred * axis[:, None]).sum(2) for axis in axes], axis=2)


def _centred(points: np.ndarray) -> np.ndarray:
    """(N, 478, 3) around the centroid of the mesh without the irises, in units of its size."""
    centred = points - points[:, :_MESH].mean(1, keepdims=True)
    size = np.sqrt((centred[:, :_MESH] ** 2).sum(2).mean(1))
    return centred / np.maximum(size, 1e-12)[:, None, None]


def _axes(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The face's own axes in the picture's, each (N, 3).

    x goes from the subject's right to its left, as the sum over many pairs says, so that one
    crooked eye does not tilt it; y from the forehead down to the chin; z away from the viewer.
    """
    pairs = np.array([*_WIDTHS.values()])
    x = _unit((centred[:, pairs[:, 1]] - centred[:, pairs[:, 0]]).sum(1))
    down = centred[:, [_CHIN, _LIP_BOTTOM]].sum(1) - centred[:, [_TOP, _GLABELLA]].sum(1)
    y = _unit(down - (down * x).sum(1, keepdims=True) * x)
    return x, y, np.cross(x, y)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _angle(a: np.ndarray, corner: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) radians at `corner`."""
    cosines = (_unit(a - corner) * _unit(b - corner)).sum(1)
    return np.arccos(np.clip(cosines, -1, 1))
