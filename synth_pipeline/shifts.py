"""Held-out photos as a worse camera would have given them: how much of the accuracy stays.

Each change has one strength, a share of the picture's side where it has a size, and is applied to
the picture as the recogniser is shown it; so the same photo is asked about every time.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

_GREY = (128, 128, 128)


def _blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(picture.width / 64))


def _compressed(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=20)
    return Image.open(stream).convert("RGB")


def _darkened(picture: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(0.4)


def _rotated(picture: Image.Image) -> Image.Image:
    return picture.rotate(15, Image.Resampling.BICUBIC, fillcolor=_GREY)


def _cropped(picture: Image.Image) -> Image.Image:
    margin = picture.width // 10
    inner = picture.crop((margin, margin, picture.width - margin, picture.height - margin))
    return inner.resize(picture.size, Image.Resampling.BICUBIC)


#: Blurred by a 64th of the side, JPEG of quality 20, four tenths of the light, turned by 15
#: degrees, and the inner four fifths.
SHIFTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": _blurred,
    "compressed": _compressed,
    "darkened": _darkened,
    "rotated": _rotated,
    "cropped": _cropped,
}


def shifted(pictures: np.ndarray, name: str) -> np.ndarray:
    """Change pictures.

    Args:
        pictures: (N, 3, S, S) uint8 sRGB.
        name: one of `SHIFTS`.

    Returns:
        (N, 3, S, S) uint8.
    """
    change = SHIFTS[name]
    found = np.empty_like(pictures)
    for place, pixels in enumerate(pictures):
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        found[place] = np.asarray(change(picture)).transpose(2, 0, 1)
    return found
