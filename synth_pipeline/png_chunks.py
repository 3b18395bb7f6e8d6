"""The chunks of a PNG: those that decide its pixels must be whole; the others may be anything.

A text of a megabyte, or an EXIF block that an editor cut, makes Pillow refuse a PNG whose pixels
are whole. And Pillow does not compare the checksums of compressed pixels. The layout is in the PNG
Specification, third edition, section 5: https://www.w3.org/TR/png-3/.
"""

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Without them there are no pixels, or other ones.
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
#: The colour profile and the orientation: used where they are whole.
_WANTED = {b"iCCP", b"eXIf"}
_LARGEST_WANTED_BYTES = 2**20


class DamagedPngError(ValueError):
    """A chunk that decides the pixels is damaged or missing."""


def essential(data: bytes) -> bytes:
    """A PNG of the chunks that decide how its pixels look, in their order.

    Of an animation it is the picture that readers without animation show. Text, times, gamma and
    primaries are dropped; so are a profile and an EXIF block that are damaged or larger than a
    megabyte.

    Raises:
        DamagedPngError: a checksum of the pixels is wrong, or chunks are missing.
    """
    kept = [SIGNATURE]
    for name, body, whole in _chunks(data):
        if name in _PIXELS and not whole:
            raise DamagedPngError
        if name in _PIXELS or (name in _WANTED and whole and _is_usable(name, _of(data, body))):
            kept.append(data[body.start - 8 : body.stop + 4])
        if name == b"IEND":
            return b"".join(kept)
    raise DamagedPngError


def _chunks(data: bytes) -> Iterator[tuple[bytes, range, bool]]:
    """Name, place of the body, and whether the checksum is right."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        body = range(at + 8, at + 8 + size)
        checksum = data[body.stop : body.stop + 4]
        if len(checksum) < 4:
            return
        found = zlib.crc32(memoryview(data)[at + 4 : body.stop])
        yield name, body, checksum == struct.pack(">I", found)
        at = body.stop + 4


def _of(data: bytes, body: range) -> bytes:
    return data[body.start : body.stop]


def _is_usable(name: bytes, body: bytes) -> bool:
    if name == b"iCCP":
        # A name, a zero, the method (always zero), and compressed data.
        _, _, rest = body.partition(b"\0")
        if rest[:1] != b"\0":
            return False
        try:
            unpacker = zlib.decompressobj()
            unpacker.decompress(rest[1:], _LARGEST_WANTED_BYTES)
        except zlib.error:
            return False
        return unpacker.eof
    return len(body) <= _LARGEST_WANTED_BYTES
