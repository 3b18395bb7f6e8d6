"""Sanitising one photo: nothing but pixels survives, and nothing that claims to be one gets in."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from synth_pipeline.photos import UnusablePhotoError, sanitise

SECRET = b"Jane Doe, born 2019"


@pytest.fixture
def picture(rng):
    ramp = np.linspace(0, 255, 96 * 80 * 3).reshape(80, 96, 3)
    return Image.fromarray((ramp * 0.9 + rng.uniform(0, 20, ramp.shape)).astype(np.uint8))


def exif_with(orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = SECRET.decode()
    exif[0x8825] = {1: "N", 2: (51.0, 30.0, 0.0)}
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_no_metadata_survives(picture, tmp_path, kind):
    path = tmp_path / "photo"
    options = {"exif": exif_with(), "icc_profile": b"profile " + SECRET, "xmp": SECRET}
    if kind == "JPEG":
        options["comment"] = SECRET
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Comment", SECRET.decode())
        del options["xmp"]
    if kind == "TIFF":
        options = {"icc_profile": b"profile " + SECRET, "description": SECRET.decode()}
    picture.save(path, kind, **options)
    assert SECRET in path.read_bytes() or SECRET[:4] in path.read_bytes()
    clean = sanitise(path).image
    assert clean.info == {}
    assert not clean.getexif()
    stream = io.BytesIO()
    clean.save(stream, "PNG")
    chunks = _png_chunks(stream.getvalue())
    assert set(chunks) <= {b"IHDR", b"IDAT", b"IEND"}


def _png_chunks(data):
    at, names = 8, []
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        names.append(data[at + 4 : at + 8])
        at += size + 12
    return names


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, orientation):
    upright = Image.new("RGB", (96, 64), "white")
    upright.paste("black", (0, 0, 48, 32))  # the upper left quarter
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    path = tmp_path / "photo.png"
    stored.save(path, exif=exif_with(orientation))
    assert sanitise(path).image.tobytes() == upright.tobytes()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_truncated_jpeg_is_refused(picture, tmp_path, share):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=95)
    path = tmp_path / "photo.jpg"
    path.write_bytes(stream.getvalue()[: int(len(stream.getvalue()) * share)])
    with pytest.raises(UnusablePhotoError, match="damaged or cut short"):
        sanitise(path)


def test_bomb_is_refused_before_it_is_decoded(tmp_path):
    width = height = 40_000
    row = b"\0" + b"\0" * width
    packer = zlib.compressobj(9)
    body = packer.compress(row * 100) + packer.flush()  # far fewer rows than it promises

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body)
    path = tmp_path / "bomb.png"
    path.write_bytes(content + chunk(b"IEND", b""))
    with pytest.raises(UnusablePhotoError, match="million pixels"):
        sanitise(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "is no JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no JPEG"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "is no JPEG|damaged"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, content, reason):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(UnusablePhotoError, match=reason):
        sanitise(path)


def test_picture_with_a_wrong_ending_is_taken_for_what_it_is(picture, tmp_path):
    path = tmp_path / "photo.jpg"
    picture.save(path, "PNG")
    assert sanitise(path).image.tobytes() == picture.tobytes()


def test_format_that_is_not_allowed_is_refused(picture, tmp_path):
    path = tmp_path / "photo.png"
    picture.save(path, "PPM")
    with pytest.raises(UnusablePhotoError, match="is no JPEG"):
        sanitise(path)


def test_too_small_is_refused(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (300, 20)).save(path)
    with pytest.raises(UnusablePhotoError, match="smaller than 64"):
        sanitise(path)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(picture, tmp_path, mode):
    path = tmp_path / "photo.tif"
    if mode == "I;16":
        values = np.linspace(0, 40_000, 80 * 96).reshape(80, 96).astype(np.uint16)
        Image.fromarray(values).save(path)
    else:
        picture.convert(mode).save(path)
    image = sanitise(path).image
    assert image.mode == "RGB"
    assert np.asarray(image).std() > 20


def test_transparency_becomes_mid_grey(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGBA", (80, 80), (255, 0, 0, 0)).save(path)
    assert sanitise(path).image.getpixel((5, 5)) == (128, 128, 128)


def test_first_frame_of_an_animation(picture, tmp_path):
    path = tmp_path / "photo.webp"
    other = Image.new("RGB", picture.size, "white")
    picture.save(path, save_all=True, append_images=[other], lossless=True)
    assert sanitise(path).image.tobytes() == picture.tobytes()
