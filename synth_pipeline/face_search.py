"""Search a picture for faces that MediaPipe's first look misses: small ones, and turned ones.

Its detector sees a picture at 128 by 128 pixels, and was trained on faces that stand upright. So a
face that takes less than a fifth of the picture is not seen, and one that stands on its head is
missed or, worse, given a mesh in a wrong place. The search looks at overlapping tiles of several
sizes, each in four turns; every candidate is then cut out, turned upright and looked at again, and
counts only if it is seen there with confidence.

A picture is (H, W, 3) uint8; x goes right and y down, in pixels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

#: From a picture to the score and the box (left, top, right, bottom) of each face it shows.
Detect = Callable[[np.ndarray], list[tuple[float, np.ndarray]]]
#: From a picture to (478, 3) points of each face.
Mesh = Callable[[np.ndarray], list[np.ndarray]]

#: A tile is looked at in this size; a face from a quarter of it on is seen.
_TILE_PX = 192
#: How often the picture's longer side is halved, the last time for faces of 5 %.
HALVINGS = 3
#: Tiles of fewer pixels are left out: a face in them would have fewer than 30.
_LEAST_TILE_PX = 96
#: A cut-out's side in sides of the face, and what it is reduced to.
_ROOM = 2.0
_CUT_OUT_PX = (192, 512)
#: What a candidate must reach in its upright cut-out.
SURE = 0.8
#: How far from upright a face may still look after it was turned upright.
_UPRIGHT_DEG = 15.0
_MOST_CANDIDATES = 12
#: Points of the mesh: both corners of the eyes, and of the mouth.
_RIGHT_EYE, _LEFT_EYE = (33, 133), (362, 263)


@dataclass(frozen=True)
class Found:
    """A face that is seen upright in its cut-out.

    Attributes:
        points_px: (478, 3) float32 in pixels of the whole picture.
        confidence: of the detector in the upright cut-out.
    """

    points_px: np.ndarray
    confidence: float


@dataclass(frozen=True)
class _Candidate:
    score: float
    centre: np.ndarray
    side_px: float


def search(
    pixels_HWC: np.ndarray,
    detect: Detect,
    mesh: Mesh,
    *,
    halvings: int = HALVINGS,
    sure: float = SURE,
) -> list[Found]:
    """The faces of a picture, the largest first; none where none is sure.

    Tiles are searched from the largest to the smallest, until one size shows a face.

    Args:
        pixels_HWC: the picture.
        detect: MediaPipe's face detector.
        mesh: MediaPipe's landmark model.
        halvings: how often the tiles are halved; 0 looks for faces of a fifth of the picture on.
        sure: the confidence that a face must reach in its upright cut-out.
    """
    for candidates in _candidates(pixels_HWC, detect, halvings):
        found: list[Found] = []
        for candidate in _distinct(candidates)[:_MOST_CANDIDATES]:
            face = _confirmed(pixels_HWC, candidate, detect, mesh)
            if face is None or face.confidence < sure:
                continue
            if not any(is_same(face.points_px, other.points_px) for other in found):
                found.append(face)
        if found:
            return sorted(found, key=lambda face: -side_px(face.points_px))
    return []


def is_surer_turned(pixels_HWC: np.ndarray, detect: Detect, sure: float) -> bool:
    """Whether the detector is so sure of any face when the picture is turned; quick."""
    small, scale = _reduced(pixels_HWC, _TILE_PX / max(pixels_HWC.shape))
    seen = _seen(small, detect, np.zeros(2), scale, turns=(1, 2, 3))
    return any(candidate.score >= sure for candidate in seen)


def side_px(points_px: np.ndarray) -> float:
    """The longer side of a face's box."""
    return float(np.ptp(points_px[:, :2], axis=0).max())


def is_same(a_px: np.ndarray, b_px: np.ndarray) -> bool:
    """Whether two meshes lie on one face, in one turn: not further apart than a tenth of it."""
    apart = np.linalg.norm(a_px[:, :2] - b_px[:, :2], axis=1)
    return float(np.median(apart)) < 0.1 * max(side_px(a_px), side_px(b_px))


def _candidates(
    pixels_HWC: np.ndarray, detect: Detect, halvings: int
) -> Iterator[list[_Candidate]]:
    """Of each size of tiles what the detector sees, in all turns."""
    height, width = pixels_HWC.shape[:2]
    longer = max(height, width)
    # A tight crop: the detector wants some room around a face.
    small, scale = _reduced(pixels_HWC, _TILE_PX / (2 * longer))
    margin = _TILE_PX // 4
    room = np.pad(small, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    first = _seen(room, detect, np.array([-margin, -margin]), scale)
    for halving in range(halvings + 1):
        tile = longer / 2**halving
        if halving and tile < _LEAST_TILE_PX:
            return
        small, scale = _reduced(pixels_HWC, _TILE_PX / tile)
        candidates = first
        first = []
        # Four turns are looked at where that costs little. In two of them the detector misses few
        # faces that lie on the side, and how a candidate is turned is found out later.
        turns = range(4) if halving < 2 else (0, 2)
        for top in _starts(small.shape[0]):
            for left in _starts(small.shape[1]):
                part = small[top : top + _TILE_PX, left : left + _TILE_PX]
                candidates += _seen(part, detect, np.array([left, top]), scale, turns)
        yield candidates


def _starts(length: int) -> Sequence[int]:
    """Where tiles begin that overlap by half, so that each face lies wholly in one."""
    last = max(length - _TILE_PX, 0)
    steps = math.ceil(last / (_TILE_PX / 2))
    return [round(last * step / max(steps, 1)) for step in range(steps + 1)]


def _reduced(pixels_HWC: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """A picture made smaller, never larger; and by how much."""
    if scale >= 1:
        return pixels_HWC, 1.0
    height, width = pixels_HWC.shape[:2]
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    image = Image.fromarray(pixels_HWC).resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    return np.asarray(image), scale


def _seen(
    part_HWC: np.ndarray,
    detect: Detect,
    corner: np.ndarray,
    scale: float,
    turns: Sequence[int] = range(4),
) -> list[_Candidate]:
    """What the detector sees in one part, in quarter turns, in pixels of the whole picture."""
    found = []
    for turn in turns:
        turned = np.rot90(part_HWC, turn)
        for score, box in detect(turned):
            centre = (box[:2] + box[2:]) / 2
            height, width = turned.shape[:2]
            for _ in range(turn):
                # Back by one quarter, clockwise.
                centre = np.array([height - centre[1], centre[0]])
                height, width = width, height
            side = float((box[2:] - box[:2]).max()) / scale
            found.append(_Candidate(score, (centre + corner) / scale, side))
    return found


def _distinct(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The best of each place, the best first."""
    kept: list[_Candidate] = []
    for each in sorted(candidates, key=lambda candidate: -candidate.score):
        if not any(
            np.linalg.norm(each.centre - other.centre) < 0.5 * max(each.side_px, other.side_px)
            for other in kept
        ):
            kept.append(each)
    return kept


def _confirmed(
    pixels_HWC: np.ndarray, candidate: _Candidate, detect: Detect, mesh: Mesh
) -> Found | None:
    """The candidate as it looks best when it is cut out and turned upright."""
    best: Found | None = None
    scores = []
    for turn in range(4):
        view, _ = _cut_out(pixels_HWC, candidate.centre, candidate.side_px, 90.0 * turn)
        scores.append((max((score for score, _ in detect(view)), default=0.0), 90.0 * turn))
    for score, turn_deg in sorted(scores, reverse=True)[:2]:
        if score:
            face = _upright(pixels_HWC, candidate, turn_deg, detect, mesh)
            if face and (best is None or face.confidence > best.confidence):
                best = face
    return best


def _upright(
    pixels_HWC: np.ndarray, candidate: _Candidate, turn_deg: float, detect: Detect, mesh: Mesh
) -> Found | None:
    """The face near a candidate's place, from a cut-out in which it stands upright.

    Args:
        pixels_HWC: the picture.
        candidate: where, and how large.
        turn_deg: how far it is turned clockwise, to 45 degrees.
        detect: MediaPipe's face detector.
        mesh: MediaPipe's landmark model.
    """
    centre, face_px = candidate.centre, candidate.side_px
    # The first look tells where it is and how it is turned, the second one is the result.
    for look in range(2):
        view, back = _cut_out(pixels_HWC, centre, face_px, turn_deg)
        points = _in_the_middle(mesh(view), view.shape[0])
        if points is None:
            return None
        placed, roll_deg = back(points), _roll_deg(points)
        if look == 0:
            centre, face_px, turn_deg = _centre(placed), side_px(placed), turn_deg + roll_deg
    assert points is not None
    seen = [score for score, box in detect(view) if _holds(box, _centre(points))]
    if abs(roll_deg) > _UPRIGHT_DEG or not seen:
        return None
    return Found(placed, max(seen))


def _in_the_middle(faces: Sequence[np.ndarray], size_px: int) -> np.ndarray | None:
    middle = np.array([size_px / 2, size_px / 2])
    near = [(float(np.linalg.norm(_centre(points) - middle)), points) for points in faces]
    near = [each for each in near if each[0] < size_px / 4]
    return min(near, key=lambda each: each[0])[1] if near else None


def _holds(box: np.ndarray, point: np.ndarray) -> bool:
    return bool((box[:2] <= point).all() and (point <= box[2:]).all())


def _centre(points_px: np.ndarray) -> np.ndarray:
    low, high = points_px[:, :2].min(0), points_px[:, :2].max(0)
    return (low + high) / 2


def _roll_deg(points_px: np.ndarray) -> float:
    """How far the eyes are turned clockwise from the horizontal."""
    across = points_px[list(_LEFT_EYE), :2].mean(0) - points_px[list(_RIGHT_EYE), :2].mean(0)
    return math.degrees(math.atan2(across[1], across[0]))


def _cut_out(
    pixels_HWC: np.ndarray, centre: np.ndarray, face_px: float, turn_deg: float
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """A square around a face, turned back by `turn_deg`; and its points' way into the picture."""
    height, width = pixels_HWC.shape[:2]
    side = _ROOM * face_px
    reach = side * 0.71 + 2
    left, top = (math.floor(value) for value in centre - reach)
    right, bottom = (math.ceil(value) for value in centre + reach)
    # Beyond the picture its border goes on.
    rows = np.clip(np.arange(top, bottom), 0, height - 1)
    columns = np.clip(np.arange(left, right), 0, width - 1)
    patch = Image.fromarray(pixels_HWC[rows[:, None], columns])
    out_px = int(np.clip(round(side), *_CUT_OUT_PX))
    scale = side / out_px
    factor = max(int(scale), 1)
    if factor > 1:
        patch = patch.reduce(factor)
    turn = math.radians(turn_deg)
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    start = centre - turned @ np.full(2, side / 2)
    into_patch = turned * scale / factor
    offset = (start - (left, top)) / factor
    matrix = (*into_patch[0], offset[0], *into_patch[1], offset[1])
    view = patch.transform(
        (out_px, out_px), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )

    def back(points: np.ndarray) -> np.ndarray:
        flat = points[:, :2] @ (turned * scale).T + start
        return np.concatenate([flat, points[:, 2:] * scale], axis=1).astype(np.float32)

    return np.asarray(view), back
