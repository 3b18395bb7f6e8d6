"""Any picture to sRGB with 8 bits: by its colour profile, and by the full range of its numbers."""

import io

import numpy as np
from PIL import Image, ImageCms

#: White of numbers that do not tell their range, each where all of them are within.
_WHITES_OF_INTEGERS = (2**8 - 1, 2**16 - 1, 2**31 - 1)
_WHITES_OF_FLOATS = (1, 2**8 - 1, 2**16 - 1)
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0
_GREY = (128, 128, 128)
_SRGB = ImageCms.createProfile("sRGB")


class UnknownRangeError(ValueError):
    """It cannot be told which number is white."""


def to_srgb(image: Image.Image) -> Image.Image:
    """A picture in sRGB.

    Its embedded profile is followed, with relative colorimetric intent and black point
    compensation. A damaged profile, or one of another kind of colours, is passed over. Gamma and
    primaries of a PNG without profile are too: they are mostly sRGB's own, or wrong. Transparent
    places become mid grey, which favours no skin.

    Args:
        image: decoded, of any mode.

    Returns:
        RGB, 8 bit.

    Raises:
        UnknownRangeError: its numbers are negative, not finite, or beyond all usual ranges.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _eight_bits(image)
    elif image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("1", "P", "YCbCr", "RGBX", "HSV"):
        image = image.convert("RGB")
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    opaque = image.convert("RGB") if alpha else image
    rgb = _converted(opaque, profile)
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, _GREY), alpha)


def _converted(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB, CMYK or LAB to sRGB."""
    if image.mode == "LAB":
        found = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), _SRGB, outputMode="RGB"
        )
        assert found is not None
        return found
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            colours = source.profile.xcolor_space.strip()
            if colours == "RGB" and image.mode == "L":
                image = image.convert("RGB")
            if colours == "GRAY" and image.mode == "RGB":
                image = image.convert("L")
            found = ImageCms.profileToProfile(
                image,
                source,
                _SRGB,
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            assert found is not None
            return found
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # damaged, or made for other colours
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey numbers of more than 8 bits as L: their full range becomes 0 to 255.

    Raises:
        UnknownRangeError: as of `to_srgb`.
    """
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16"):
        bits = tags.get(_BITS_PER_SAMPLE, 16)
        white = 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
    else:
        whites = _WHITES_OF_FLOATS if image.mode == "F" else _WHITES_OF_INTEGERS
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > whites[-1]:
            raise UnknownRangeError
        white = next(each for each in whites if values.max() <= each)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = white - values
    return Image.fromarray(np.round(values * (255 / white)).clip(0, 255).astype(np.uint8))
