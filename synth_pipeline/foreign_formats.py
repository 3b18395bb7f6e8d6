"""The formats that are not read, known by their first bytes, and the way round for each."""

_NOT_READ = "is no JPEG, PNG, WebP, BMP or TIFF picture"
_SAVE = "which is not read; save it as JPEG with any viewer"
_CONVERT = (
    "which is not read; convert it to JPEG, with `magick photo.{0} photo.jpg` of ImageMagick "
    "or the export of any viewer"
)
_HEIC = (
    "is a HEIC picture, which is not read; convert it to JPEG, with `heif-convert photo.heic "
    "photo.jpg` of libheif or the export of any viewer (an iPhone takes JPEGs when Settings, "
    "Camera, Formats is Most Compatible)"
)
_RAW = (
    "is a camera raw, which is not read; develop it to JPEG, with darktable, RawTherapee or "
    "the camera's own program"
)
_TIFF = (
    "is a TIFF of a kind that is not read; save it with 8 or 16 bits a channel, or as PNG or JPEG"
)
_VIDEO = "is a video; save one frame of it as JPEG"
_STARTS = {
    b"II*\0": _TIFF,
    b"MM\0*": _TIFF,
    b"II+\0": _TIFF,
    b"MM\0+": _TIFF,
    b"IIRO": _RAW,
    b"IIU\0": _RAW,
    b"MMOR": _RAW,
    b"FUJIFILMCCD-RAW": _RAW,
    b"FOVb": _RAW,
    b"\0MRM": _RAW,
    b"\xff\x0a": f"is a JPEG XL picture, {_CONVERT.format('jxl')}",
    b"\0\0\0\x0cJXL ": f"is a JPEG XL picture, {_CONVERT.format('jxl')}",
    b"\0\0\0\x0cjP  ": f"is a JPEG 2000 picture, {_CONVERT.format('jp2')}",
    b"\xff\x4f\xff\x51": f"is a JPEG 2000 picture, {_CONVERT.format('jp2')}",
    b"GIF8": f"is a GIF, {_SAVE}",
    b"8BPS": f"is a Photoshop document, {_SAVE}",
    b"%PDF": f"is a PDF document, {_SAVE}",
    b"\x1a\x45\xdf\xa3": _VIDEO,
}
#: Of the container that HEIC, AVIF, Canon's raws and videos share (ISO/IEC 14496-12, section 4.3).
_BRANDS = {
    b"heic": _HEIC,
    b"heix": _HEIC,
    b"heim": _HEIC,
    b"heis": _HEIC,
    b"hevc": _HEIC,
    b"hevx": _HEIC,
    b"mif1": _HEIC,
    b"msf1": _HEIC,
    b"avif": f"is an AVIF picture, {_CONVERT.format('avif')}",
    b"avis": f"is an AVIF picture, {_CONVERT.format('avif')}",
    b"crx ": _RAW,
}
#: Formats that are read: a file that begins so and cannot be opened is damaged.
_OURS = (b"\xff\xd8\xff", b"\x89PNG", b"BM")


def name_of_format(data: bytes, *, raw: bool = False) -> str | None:
    """What a file is that no reader of ours knows, and what to do about it.

    Args:
        data: the beginning of the file.
        raw: it is known to be a camera's raw.

    Returns:
        A few words to follow "the file"; none for a damaged file of a format that is read.
    """
    if raw or data[8:10] == b"CR":
        return _RAW
    if data[4:8] == b"ftyp":
        # `mif1` says little: what follows it tells AVIF from HEIC.
        brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(_box_end(data), 64), 4))]
        known = [brand for brand in brands if brand in _BRANDS and brand not in (b"mif1", b"msf1")]
        if known:
            return _BRANDS[known[0]]
        return _BRANDS.get(brands[0], _VIDEO)
    if data.startswith(_OURS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return None
    return next((words for start, words in _STARTS.items() if data.startswith(start)), _NOT_READ)


def _box_end(data: bytes) -> int:
    return int.from_bytes(data[:4], "big")
