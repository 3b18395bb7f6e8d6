"""Morphs: pictures of faces whose shape lies between those of several photos of one class.

What a class's photos have in common is what a fine-tuning is to learn; what they do not is who the
children are. A morph keeps the first and is no photo: its landmarks are a weighted mean of those in
three photos, as in the composite faces by which syndromes are shown (Ferry et al. 2014,
Diagnostically relevant facial gestalt information from ordinary photographs, figure 2).

Shapes: N photos of S by S pixels; P points steer a warp.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F

#: The photo's own part of the shape, and that of each of two others; of two photos, half and half.
_OWN, _OTHER = 0.4, 0.3
#: How many morphs a class has at most, if not one of each photo; of eight photos it is all.
_MOST = 240
#: Of the mesh's points every fifth steers the warp: neighbours move alike.
_EVERY = 5
#: The warp is smooth: it is computed on a grid of so many points a side, and filled in between.
_GRID = 65
#: Keeps the spline from following the landmarks' own noise; in squares of the picture's side.
_STIFFNESS = 1e-4


def morphs(pixels_NCSS: np.ndarray, points_px_NPD: np.ndarray) -> Iterator[np.ndarray]:
    """Each photo with its face warped towards those of every two others.

    Skin, hair and background stay the photo's own: mixed ones would show two heads.

    Args:
        pixels_NCSS: (N, 3, S, S) float32, square, -1 to 1.
        points_px_NPD: (N, 478, 2 or more) the faces' landmarks, x and y in pixels of the square.

    Yields:
        (3, S, S) float32, photo after photo, of each equally many; none for a single photo.
    """
    photos, _, _, side_px = pixels_NCSS.shape
    steering_NPD = np.stack([_steering(points[:, :2] / side_px) for points in points_px_NPD])
    for own in range(photos):
        for shares_N in _shares(photos, own):
            wanted_PD = np.tensordot(shares_N, steering_NPD, axes=1)
            yield _warped(pixels_NCSS[own], steering_NPD[own], wanted_PD)


def _shares(photos: int, own: int) -> Iterator[np.ndarray]:
    """How much of each photo's shape there is in the morphs of one, (N,) each."""
    others = [(own + step) % photos for step in range(1, photos)]
    if photos == 2:
        yield np.full(2, 0.5)
    pairs = list(combinations(others, 2))
    # Of too many pairs some, evenly among them.
    number = min(len(pairs), max(1, _MOST // photos))
    for place in np.linspace(0, len(pairs), number, endpoint=False, dtype=int):
        shares_N = np.zeros(photos)
        shares_N[own], shares_N[list(pairs[place])] = _OWN, _OTHER
        yield shares_N


def _steering(points_PD: np.ndarray) -> np.ndarray:
    """Points that the warp moves, and the border's, which it leaves; 0 to 1."""
    border = [(x, y) for x in (0, 0.5, 1) for y in (0, 0.5, 1) if (x, y) != (0.5, 0.5)]
    return np.concatenate([points_PD[::_EVERY], border]).astype(np.float64)


def _warped(picture_CSS: np.ndarray, from_PD: np.ndarray, to_PD: np.ndarray) -> np.ndarray:
    """The picture with what is at some points moved to others, by a thin-plate spline.

    Bookstein 1989, Principal warps, sections A and B: of all warps that do, it bends least. It is
    solved from where things go to where they come from, so that every pixel gets a value.
    """
    points = len(to_PD)
    bends = _bending(to_PD, to_PD) + _STIFFNESS * np.eye(points)
    flat = np.concatenate([np.ones((points, 1)), to_PD], axis=1)
    system = np.block([[bends, flat], [flat.T, np.zeros((3, 3))]])
    weights = np.linalg.solve(system, np.concatenate([from_PD, np.zeros((3, 2))]))
    line = np.linspace(0, 1, _GRID)
    grid_GD = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    flat = np.concatenate([np.ones((len(grid_GD), 1)), grid_GD], axis=1)
    source_GD = np.concatenate([_bending(grid_GD, to_PD), flat], axis=1) @ weights
    side_px = picture_CSS.shape[-1]
    coarse = torch.from_numpy(source_GD.T.reshape(1, 2, _GRID, _GRID).astype(np.float32))
    fine = F.interpolate(coarse, size=(side_px, side_px), mode="bilinear", align_corners=True)
    drawn = F.grid_sample(
        torch.from_numpy(picture_CSS[None]),
        fine.permute(0, 2, 3, 1) * 2 - 1,
        mode="bicubic",
        padding_mode="border",
        align_corners=True,
    )
    return drawn[0].clamp(-1, 1).numpy()


def _bending(at_ND: np.ndarray, points_PD: np.ndarray) -> np.ndarray:
    """The spline's kernel r² log r² between points, (N, P)."""
    squared = ((at_ND[:, None] - points_PD[None]) ** 2).sum(axis=-1)
    return squared * np.log(np.maximum(squared, 1e-12))
