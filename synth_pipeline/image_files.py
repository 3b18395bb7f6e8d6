"""One image file decoded: the bytes first, then a verdict on the bytes and on nothing else.

A disk that does not answer, or too little memory, says nothing of an image. So a file is read in
full before a decoder sees it, and only what the decoder says of those bytes makes an image bad.
"""

import io
import os
import stat
import struct
import warnings
from pathlib import Path

import simplejpeg
from PIL import Image

from synth_pipeline import png_chunks
from synth_pipeline.errors import PassingError
from synth_pipeline.foreign_formats import name_of_format

#: By content, whatever the name's ending. No vector, no camera raw; of several pictures the first.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
LARGEST_BYTES = 50 * 2**20
LARGEST_PIXELS = 60_000_000

DAMAGED = "is damaged or cut short"
CORRUPT_JPEG = (
    "is damaged: the JPEG data are corrupt; where a viewer shows the whole photo, save it again"
)
_TOO_MANY_PIXELS = f"has more than {LARGEST_PIXELS // 10**6} million pixels"
#: What libjpeg-turbo warns of when pixels are lost. Its other warnings are about harmless headers.
_JPEG_DAMAGE = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
_SCALED_DOWN = 8
#: Tags of TIFF. A camera raw of this layout begins with its thumbnail, which says that it is one.
_DNG_VERSION, _NEW_SUBFILE_TYPE = 50706, 254

# Pillow loads its readers late, and knows no name of a format before that.
Image.init()


class BadImageError(Exception):
    """Why an image cannot be used, in a few words that name no file."""


def read_bytes(path: Path) -> bytes:
    """The content of a photo of at most `LARGEST_BYTES`.

    Raises:
        BadImageError: it is empty, too large, or no regular file.
        PassingError: it cannot be read now, which says nothing of its content.
    """
    try:
        # A pipe must not keep us waiting for somebody who writes to it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise BadImageError("is no regular file")
            data = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise PassingError(
            f"A photo cannot be read ({error.strerror}); nothing was set aside. Check the disk "
            "and the permissions, then run the same command again."
        ) from None
    if not data:
        raise BadImageError("is empty")
    if len(data) > LARGEST_BYTES:
        raise BadImageError(f"has more than {LARGEST_BYTES >> 20} MB")
    return data


def decode(data: bytes) -> Image.Image:
    """Decode the first picture of a file in full.

    Its size is read from the header before anything is decoded: 34 bytes can claim a gigabyte of
    pixels. JPEGs are decoded twice, the second time by a decoder that tells what it had to make up:
    Pillow returns an image, in silence, for most JPEGs with damaged data.

    Args:
        data: of the whole file.

    Returns:
        The image as Pillow gives it: in its own mode, not turned; its EXIF and colour profile are
        in `info`, unless they are damaged.

    Raises:
        BadImageError: the bytes are no whole image that can be used.
        MemoryError: there is too little memory to tell.
    """
    size_px = (0, 0)
    try:
        # We look at the size ourselves, and refuse at a lower limit than Pillow warns at.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_size(_webp_size(data))
            opened = Image.open(io.BytesIO(_what_decides_pixels(data)), formats=FORMATS)
            size_px = opened.size
            _check_size(size_px)
            if _is_camera_raw(opened):
                raise BadImageError(name_of_format(data, raw=True))
            opened.seek(0)
            opened.load()
            if opened.format in ("JPEG", "MPO"):
                _refuse_corrupt_jpeg(data)
    except (BadImageError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise BadImageError(name_of_format(data) or DAMAGED) from None
    except Image.DecompressionBombError:
        raise BadImageError(_TOO_MANY_PIXELS) from None
    except Exception:
        # Pillow's decoders raise many kinds of errors at damaged data (OSError, ValueError,
        # SyntaxError, struct.error ...), and whichever it is, the image cannot be used. Some say
        # the same when they have too little memory, so the verdict counts only where as much
        # as decoding takes can be had.
        bytearray(8 * size_px[0] * size_px[1] + 2**20)
        raise BadImageError(DAMAGED) from None
    return opened


def _check_size(size_px: tuple[int, int]) -> None:
    if size_px[0] * size_px[1] > LARGEST_PIXELS:
        raise BadImageError(_TOO_MANY_PIXELS)


def _what_decides_pixels(data: bytes) -> bytes:
    """A PNG without the chunks that have no influence on pixels; other files as they are."""
    try:
        return png_chunks.essential(data) if data.startswith(png_chunks.SIGNATURE) else data
    except png_chunks.DamagedPngError:
        raise BadImageError(DAMAGED) from None


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that a WebP's header claims; zero of other files.

    Pillow makes room for the pixels when it opens a WebP. The layout is in the WebP Container
    Specification: https://developers.google.com/speed/webp/docs/riff_container.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 25:
        return 0, 0
    if data[12:16] == b"VP8X" and len(data) >= 30:
        width, height = data[24:27] + b"\0", data[27:30] + b"\0"
        return struct.unpack("<I", width)[0] + 1, struct.unpack("<I", height)[0] + 1
    if data[12:16] == b"VP8L":
        (packed,) = struct.unpack("<I", data[21:25])
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if data[12:16] == b"VP8 " and len(data) >= 30:
        width_px, height_px = struct.unpack("<HH", data[26:30])
        return width_px & 0x3FFF, height_px & 0x3FFF
    return 0, 0


def _is_camera_raw(opened: Image.Image) -> bool:
    """Whether a TIFF is a camera's raw, of which Pillow would read the thumbnail."""
    tags = getattr(opened, "tag_v2", None)
    if tags is None:
        return False
    return _DNG_VERSION in tags or bool(int(tags.get(_NEW_SUBFILE_TYPE, 0)) & 1)


def _refuse_corrupt_jpeg(data: bytes) -> None:
    """Read the compressed data once more, with libjpeg-turbo's warnings as errors.

    Raises:
        BadImageError: pixels are lost.
        MemoryError: the decoder says so.
    """
    try:
        colours = simplejpeg.decode_jpeg_header(data, strict=False)[2]
        simplejpeg.decode_jpeg(
            data,
            colorspace="CMYK" if colours in ("CMYK", "YCCK") else "GRAY",
            # All of the data are read; only the arithmetic is saved.
            min_factor=_SCALED_DOWN,
        )
    except ValueError as error:
        if str(error).startswith(_JPEG_DAMAGE):
            raise BadImageError(CORRUPT_JPEG) from None
        if "memory" in str(error):
            raise MemoryError from None
