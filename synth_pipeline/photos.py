"""One photo made safe: fully decoded, upright, sRGB, and free of everything but pixels."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from synth_pipeline import colours
from synth_pipeline.errors import PassingError
from synth_pipeline.image_files import BadImageError, decode, read_bytes

SMALLEST_PX = 64
_ORIENTATION = 0x0112
#: What EXIF's orientation asks for.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnusablePhotoError(Exception):
    """Why a photo is set aside, in a few words that name no file."""


@dataclass(frozen=True)
class Photo:
    """A sanitised photo.

    Attributes:
        image: RGB, 8 bit, sRGB, upright, carrying no metadata.
    """

    image: Image.Image


def sanitise(path: Path, sha256: str | None = None) -> Photo:
    """Read a photo and keep its pixels only.

    Of an animation, or of a file of several pictures, the first is the photo. Colours are converted
    to sRGB, see `colours.to_srgb`.

    Args:
        path: a file of any name.
        sha256: of the file as somebody saw it before.

    Raises:
        UnusablePhotoError: the file's content cannot or must not be used.
        PassingError: the file cannot be read or decoded now, or it is not the one that was seen.
    """
    try:
        data = read_bytes(path)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise PassingError(
                "A photo changed while the photos were imported; "
                "run again when nobody writes to them."
            )
        decoded = decode(data)
        if min(decoded.size) < SMALLEST_PX:
            raise UnusablePhotoError(f"is smaller than {SMALLEST_PX} pixels")
        rgb = colours.to_srgb(decoded)
        if (turn := _TURNS.get(_orientation(decoded))) is not None:
            rgb = rgb.transpose(turn)
        # A fresh picture made of the pixels: no EXIF, XMP, colour profile, comment or thumbnail.
        return Photo(Image.frombytes("RGB", rgb.size, rgb.tobytes()))
    except BadImageError as error:
        raise UnusablePhotoError(str(error)) from None
    except colours.UnknownRangeError:
        raise UnusablePhotoError(
            "holds numbers of which it cannot be told which is white; "
            "save it with 8 or 16 bits a channel"
        ) from None
    except MemoryError:
        raise PassingError(
            "There is too little memory to import a photo; nothing was set aside. "
            "Free some memory and run again."
        ) from None


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; upright where the EXIF block is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:
        # Pillow reads EXIF with struct, and whatever that raises, the pixels are whole.
        return 1
