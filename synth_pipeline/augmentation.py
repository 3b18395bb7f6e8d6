"""Pictures changed a little, on the device, a whole batch at once.

What a camera changes, and nothing that is a phenotype: faces are turned, scaled, moved, lit and
blurred a little, but not mirrored (asymmetry is a sign), nor stretched, nor cut. A picture's change
hangs on seeds and on the picture, never on the batch it is in.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

#: The most that is done, either way: degrees, shares of the side, and shares of the value.
_TURN_DEG = 10.0
_SCALE = 0.1
_SHIFT = 0.05
_LIGHT = 0.2
#: How many pictures are blurred, and how wide.
_BLURRED = 0.25
_BLUR_PX = 5
_LUMA = (0.299, 0.587, 0.114)


def draws(seeds: Sequence[Sequence[int]]) -> torch.Tensor:
    """(N, 10) float32 in 0..1: what decides each picture's change.

    Args:
        seeds: for each picture the numbers that its change hangs on.
    """
    rows = [np.random.default_rng(list(seed)).random(10, np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def augmented(x: torch.Tensor, drawn: torch.Tensor, flips: bool) -> torch.Tensor:
    """Change pictures.

    Args:
        x: (N, 3, S, S) float32 in 0..1.
        drawn: (N, 10), of `draws`.
        flips: whether half of them are mirrored.

    Returns:
        (N, 3, S, S) float32 in 0..1.
    """
    drawn = drawn.to(x.device)
    within = (2 * drawn - 1)[:, :, None, None, None].unbind(1)
    angle = within[0].flatten() * np.deg2rad(_TURN_DEG)
    scale = 1 + within[1].flatten() * _SCALE
    shift = 2 * _SHIFT * (2 * drawn[:, 2:4] - 1)
    mirror = torch.where(drawn[:, 4] < 0.5, -1.0, 1.0) if flips else torch.ones_like(angle)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = (
        torch.stack([cos * mirror, -sin, shift[:, 0]], 1),
        torch.stack([sin * mirror, cos, shift[:, 1]], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    # Light, contrast around the picture's own mean, and colour around its own grey.
    x = x * (1 + _LIGHT * within[5])
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (1 + _LIGHT * within[6])
    luma = torch.tensor(_LUMA, device=x.device)[:, None, None]
    grey = (x * luma).sum(1, keepdim=True)
    x = grey + (x - grey) * (1 + _LIGHT * within[7])
    blurred = drawn[:, 8] < _BLURRED
    if blurred.any():
        soft = F.avg_pool2d(
            x[blurred], _BLUR_PX, stride=1, padding=_BLUR_PX // 2, count_include_pad=False
        )
        x[blurred] = torch.lerp(x[blurred], soft, drawn[blurred, 9][:, None, None, None])
    return x.clamp(0, 1)
