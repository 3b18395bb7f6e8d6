"""Read a picture again, and tell a damaged file from a reading that failed.

What the decoder says of the bytes is a fact about the picture, which may be stored. A disk that
gives an error, or memory that runs out, says nothing about it, so it must never become a result.
"""

from pathlib import Path

from PIL import Image

from synth_pipeline.errors import PassingError
from synth_pipeline.image_files import BadImageError, decode


class DamagedPictureError(Exception):
    """All bytes of a file were read, and they are not a whole picture within the limits."""


def read_picture(path: Path, mode: str = "RGB") -> Image.Image:
    """Decode a picture in full.

    Args:
        path: a file of the study.
        mode: of Pillow, to convert to.

    Raises:
        DamagedPictureError: the decoder refuses the bytes, or they claim too many pixels.
        PassingError: the bytes cannot be read.
        MemoryError: there is not enough memory to decode them.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PassingError(
            f"An image of the study cannot be read ({error.strerror}); check the disk and the "
            "permissions of the store, then run the same command again."
        ) from None
    try:
        return decode(content).convert(mode)
    except BadImageError:
        raise DamagedPictureError from None
