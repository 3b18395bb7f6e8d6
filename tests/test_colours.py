"""Colours mean the same after import: profiles are followed, ranges are kept."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from synth_pipeline.photos import UnusablePhotoError, sanitise


def s15(value):
    return struct.pack(">i", round(value * 65536))


def profile(primaries_XYZ=None, gamma=2.2, space=b"RGB "):
    """An ICC profile (version 2) of one gamma: of primaries in XYZ under D50, or of grey."""
    text = b"test\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(0.9642, 1, 0.8249)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for name, values in zip(b"rgb".decode(), primaries_XYZ, strict=True):
            tags[f"{name}XYZ".encode()] = xyz(*values)
            tags[f"{name}TRC".encode()] = curve
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + s15(0.9642) + s15(1) + s15(0.8249)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def xyz(x, y, z):
    return b"XYZ \0\0\0\0" + s15(x) + s15(y) + s15(z)


# The primaries of Adobe RGB (1998), adapted to D50, as its specification gives them.
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def expected(rgb, primaries, gamma):
    """8-bit sRGB of a colour, by the definitions: no colour management."""
    linear = (np.array(rgb) / 255) ** gamma @ np.array(primaries)
    to_srgb = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540]]
        + [[0.0719453, -0.2289914, 1.4052427]]
    )
    light = (to_srgb @ linear).clip(0, 1)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return srgb * 255


SKIN = (201, 150, 120)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_profile_is_followed(tmp_path, kind):
    path = tmp_path / "photo"
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    icc = profile(ADOBE_RGB, 563 / 256)
    Image.new("RGB", (80, 80), SKIN).save(path, kind, icc_profile=icc, **options)
    found = np.array(sanitise(path).image.getpixel((40, 40)), float)
    wanted = expected(SKIN, ADOBE_RGB, 563 / 256)
    assert abs(found - wanted).max() <= 3
    assert abs(np.array(SKIN) - wanted).max() >= 8, "the profile makes no difference"


def test_srgb_profile_changes_nothing_that_is_seen(tmp_path, rng):
    pixels = rng.integers(0, 256, (80, 80, 3), np.uint8)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "photo.png", icc_profile=icc)
    found = np.asarray(sanitise(tmp_path / "photo.png").image).astype(int)
    assert abs(found - pixels).max() <= 1


def test_grey_with_a_grey_profile(tmp_path):
    Image.new("L", (80, 80), 100).save(
        tmp_path / "photo.png", icc_profile=profile(gamma=1.8, space=b"GRAY")
    )
    light = (100 / 255) ** 1.8
    wanted = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    assert abs(sanitise(tmp_path / "photo.png").image.getpixel((0, 0))[0] - wanted) <= 1


def test_grey_or_palette_or_transparent_with_an_rgb_profile(tmp_path):
    icc = profile(ADOBE_RGB, 563 / 256)
    wanted = expected(SKIN, ADOBE_RGB, 563 / 256)
    solid = Image.new("RGB", (80, 80), SKIN)
    for image in (solid.quantize(4), solid.convert("RGBA")):
        image.save(tmp_path / "photo.png", icc_profile=icc)
        found = sanitise(tmp_path / "photo.png").image.getpixel((0, 0))
        assert abs(np.array(found) - wanted).max() <= 3
    Image.new("L", (80, 80), 100).save(tmp_path / "photo.png", icc_profile=icc)
    wanted = expected((100,) * 3, ADOBE_RGB, 563 / 256)
    found = sanitise(tmp_path / "photo.png").image.getpixel((0, 0))
    assert abs(np.array(found) - wanted).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK"])
@pytest.mark.parametrize(
    "icc",
    [
        b"no profile",
        b"\0" * 200,
        profile(ADOBE_RGB)[:300],
        profile(ADOBE_RGB)[:132] + b"\xff" * 200,
        profile(gamma=1.0, space=b"GRAY")[:-4],
    ],
)
def test_damaged_profile_is_passed_over(tmp_path, mode, icc):
    image = Image.new("RGB", (80, 80), (200, 200, 200)).convert(mode)
    image.save(tmp_path / "photo.tif", icc_profile=icc)
    plain = image.convert("RGB").getpixel((0, 0))
    assert abs(np.array(sanitise(tmp_path / "photo.tif").image.getpixel((0, 0))) - plain).max() <= 1


def ramp(top, kind):
    return np.linspace(top * 0.2, top * 0.6, 80 * 96).reshape(80, 96).astype(kind)


@pytest.mark.parametrize(
    ("values", "white", "suffix"),
    [
        (ramp(65535, np.uint16), 65535, "png"),
        (ramp(65535, np.uint16), 65535, "tif"),
        (ramp(65535, np.int32), 65535, "tif"),
        (ramp(255, np.int32), 255, "tif"),
        (ramp(1, np.float32), 1, "tif"),
        (ramp(255, np.float32), 255, "tif"),
    ],
)
def test_more_than_8_bits_keep_their_range(tmp_path, values, white, suffix):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(values).save(path)
    found = np.asarray(sanitise(path).image)[..., 1].astype(float)
    assert abs(found - values * (255 / white)).max() <= 1


def test_16_bits_where_white_is_zero(tmp_path):
    values = ramp(65535, np.uint16)
    Image.fromarray(values).save(tmp_path / "photo.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "photo.tif") as opened:
        assert opened.tag_v2[262] == 0
    found = np.asarray(sanitise(tmp_path / "photo.tif").image)[..., 0].astype(float)
    assert abs(found - (255 - values / 257)).max() <= 1


@pytest.mark.parametrize("wrong", [-5.0, 1e9, np.nan])
def test_numbers_without_a_known_white_are_refused(tmp_path, wrong):
    values = ramp(1, np.float32)
    values[3, 3] = wrong
    Image.fromarray(values).save(tmp_path / "photo.tif")
    with pytest.raises(UnusablePhotoError, match=r"which is white.*8 or 16 bits"):
        sanitise(tmp_path / "photo.tif")


def test_modes_of_one_bit_and_of_grey_with_transparency(tmp_path):
    Image.new("1", (80, 80), 1).save(tmp_path / "photo.png")
    assert sanitise(tmp_path / "photo.png").image.getpixel((0, 0)) == (255, 255, 255)
    half = Image.merge("LA", [Image.new("L", (80, 80), 250), Image.new("L", (80, 80), 0)])
    half.save(tmp_path / "photo.png")
    assert sanitise(tmp_path / "photo.png").image.getpixel((0, 0)) == (128, 128, 128)


def test_lab(tmp_path):
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (80, 80), SKIN),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    stream = io.BytesIO()
    lab.save(stream, "TIFF")
    (tmp_path / "photo.tif").write_bytes(stream.getvalue())
    found = np.array(sanitise(tmp_path / "photo.tif").image.getpixel((0, 0)))
    assert abs(found - SKIN).max() <= 3
