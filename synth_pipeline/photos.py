"""One photo made safe: fully decoded, upright, RGB, and free of everything but pixels."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

#: By content, whatever the name's ending. One picture each: no animation, no vector, no camera raw.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
LARGEST_BYTES = 50 * 2**20
LARGEST_PIXELS = 60_000_000
SMALLEST_PX = 64


# Pillow loads its readers late, and knows no name of a format before that.
Image.init()


class UnusablePhotoError(Exception):
    """Why a photo is set aside, in a few words that name no file."""


@dataclass(frozen=True)
class Photo:
    """A sanitised photo.

    Attributes:
        image: RGB, 8 bit, upright, carrying no metadata.
    """

    image: Image.Image


def sanitise(path: Path) -> Photo:
    """Read a photo and keep its pixels only.

    `verify()` passes truncated JPEGs, so the picture is decoded in full; its size is looked at
    before that, because a small file can hold a gigabyte of pixels. Transparent places become mid
    grey, which favours no skin.

    Args:
        path: a file of any name.

    Raises:
        UnusablePhotoError: the file cannot or must not be used.
    """
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise UnusablePhotoError(f"cannot be read ({error.strerror})") from None
    if size_bytes == 0:
        raise UnusablePhotoError("is empty")
    if size_bytes > LARGEST_BYTES:
        raise UnusablePhotoError(f"has more than {LARGEST_BYTES >> 20} MB")
    try:
        # We look at the size ourselves, and refuse at a lower limit than Pillow warns at.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                width_px, height_px = opened.size
                if width_px * height_px > LARGEST_PIXELS:
                    raise UnusablePhotoError(
                        f"has more than {LARGEST_PIXELS // 10**6} million pixels"
                    )
                if min(width_px, height_px) < SMALLEST_PX:
                    raise UnusablePhotoError(f"is smaller than {SMALLEST_PX} pixels")
                # The first frame of a stereo or animated file is the photo.
                opened.seek(0)
                opened.load()
                upright = ImageOps.exif_transpose(opened)
                rgb = _to_rgb(upright)
    except UnusablePhotoError:
        raise
    except Image.UnidentifiedImageError:
        raise UnusablePhotoError("is no JPEG, PNG, WebP, BMP or TIFF picture") from None
    except Image.DecompressionBombError:
        raise UnusablePhotoError(
            f"has more than {LARGEST_PIXELS // 10**6} million pixels"
        ) from None
    except Exception:
        # Pillow's decoders raise many kinds of errors at damaged data (OSError, ValueError,
        # SyntaxError, struct.error ...), and whichever it is, the photo cannot be used.
        raise UnusablePhotoError("is damaged or cut short") from None
    # A fresh picture made of the pixels: no EXIF, XMP, colour profile, comment or thumbnail.
    return Photo(Image.frombytes("RGB", rgb.size, rgb.tobytes()))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # 16-bit grey: Pillow would clip instead of scaling.
        values = np.asarray(image.convert("F"))
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) * (255 / (high - low) if high > low else 0.0)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        grey = Image.new("RGBA", image.size, (128, 128, 128, 255))
        return Image.alpha_composite(grey, with_alpha).convert("RGB")
    return image.convert("RGB")
