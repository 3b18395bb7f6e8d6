"""Reading one file: only its bytes are judged, all of them, and within limits."""

import contextlib
import errno
import hashlib
import io
import os
import random
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synth_pipeline import image_files
from synth_pipeline.errors import PassingError
from synth_pipeline.photos import UnusablePhotoError, sanitise


@pytest.fixture
def photo(phantom_files) -> Image.Image:
    with Image.open(next(iter(phantom_files.values()))[0]) as opened:
        return opened.convert("RGB").resize((256, 256))


def encoded(image, kind="PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunk(png, added):
    """A PNG with a chunk behind its header."""
    return png[:33] + added + png[33:]


def the_same(data, path, image):
    path.write_bytes(data)
    return sanitise(path).image.tobytes() == image.tobytes()


# What a JPEG suffers.


def scan(data):
    """Where the compressed data begin."""
    at = 2
    while data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


DAMAGES = {
    "zeros": lambda b, at: b[:at] + bytes(400) + b[at + 400 :],
    "removed": lambda b, at: b[:at] + b[at + 400 :],
    "repeated": lambda b, at: b[:at] + b[at - 400 : at] + b[at:],
    "text": lambda b, at: b[:at] + b"A" * 400 + b[at + 400 :],
    "line ends": lambda b, at: b[:at] + b[at:].replace(b"\n", b"\r\n"),
    "ended": lambda b, at: b[:at] + b"\xff\xd9",
    "zeros to the end": lambda b, at: b[:at] + bytes(len(b) - at),
}
KINDS = {
    "baseline": {},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_jpegs_are_refused_and_whole_ones_are_not(photo, tmp_path, kind):
    path, accepted, tried = tmp_path / "photo", [], 0
    for quality in (60, 90):
        data = encoded(photo, "JPEG", quality=quality, **KINDS[kind])
        path.write_bytes(data)
        sanitise(path)
        for name, damage in DAMAGES.items():
            for share in (0.2, 0.5, 0.8):
                begin = scan(data)
                path.write_bytes(damage(data, begin + int((len(data) - begin) * share)))
                tried += 1
                try:
                    sanitise(path)
                except UnusablePhotoError as error:
                    assert "damaged" in str(error)
                else:
                    accepted.append((quality, name, share))
    # Some damage leaves a stream of codes that is as good as any; see docs/decisions/0023.
    assert len(accepted) <= tried * 0.1, accepted


def test_harmless_jpegs_are_read(photo, tmp_path):
    data = encoded(photo, "JPEG", quality=90)
    path = tmp_path / "photo"
    for whole in (
        data + b"what a phone adds behind the end" * 100,
        data[:2] + b"\xff\xe1" + struct.pack(">H", 30) + b"Exif\0\0" + b"\xff" * 22 + data[2:],
        encoded(photo.convert("L"), "JPEG"),
        encoded(photo.convert("CMYK"), "JPEG"),
    ):
        path.write_bytes(whole)
        assert np.asarray(sanitise(path).image).std() > 20


@pytest.mark.shared
def test_all_real_photos_are_read(real_faces):
    for path in [*real_faces.glob("lfw40/*/*.jpg"), *real_faces.glob("london102/*.jpg")][::9]:
        sanitise(path)


# What a PNG suffers.


def test_png_whose_pixels_are_whole_is_read_whatever_lies_beside_them(photo, tmp_path):
    png = encoded(photo)
    text = b"Comment\0\0" + zlib.compress(b"x" * (2 << 20))
    profile = b"bomb\0\0" + zlib.compress(bytes(64 << 20))
    wrong_sum = chunk(b"eXIf", b"MM\0*\0\0\0\x08")[:-1] + b"?"
    for added in (
        chunk(b"eXIf", b"not EXIF at all"),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        wrong_sum,
        chunk(b"zTXt", text),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + text[9:]),
        chunk(b"iCCP", profile),
        chunk(b"iCCP", b"no end of the name"),
        chunk(b"tIME", b"?"),
        chunk(b"gAMA", b""),
        chunk(b"pHYs", b"123"),
    ):
        assert the_same(with_chunk(png, added), tmp_path / "photo", photo)
    assert the_same(png + b"behind the end", tmp_path / "photo", photo)


def test_png_with_wrong_pixels_is_refused(photo, tmp_path):
    # Not compressed: a changed byte is a changed pixel, and every decoder goes on.
    png = bytearray(encoded(photo, compress_level=0))
    png[len(png) // 2] ^= 0x55
    (tmp_path / "photo").write_bytes(png)
    with pytest.raises(UnusablePhotoError, match="damaged"):
        sanitise(tmp_path / "photo")


def test_damaged_exif_of_other_formats_is_passed_over(photo, tmp_path):
    for kind in ("JPEG", "WEBP"):
        path = tmp_path / "photo"
        photo.save(path, kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0")
        sanitise(path)


# What is no photo of ours.


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC.*convert it to JPEG, with `heif-convert"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF.*convert it to JPEG"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "AVIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "camera raw.*develop it to JPEG"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0qt  ", "video"),
        (b"II*\0\x10\0\0\0CR\x02\0", "camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (b"IIRO\x08\0\0\0", "camera raw"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"GIF89a", "GIF, which is not read; save it as JPEG"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\x01", "Photoshop"),
    ],
)
def test_other_formats_are_named_with_the_way_round(tmp_path, start, words):
    (tmp_path / "photo.jpg").write_bytes(start + bytes(4000))
    with pytest.raises(UnusablePhotoError, match=words):
        sanitise(tmp_path / "photo.jpg")


def test_thumbnail_of_a_camera_raw_is_no_photo(photo, tmp_path):
    for tags in ({50706: b"\x01\x04\0\0"}, {254: 1}):
        photo.save(tmp_path / "photo", "TIFF", tiffinfo=tags)
        with pytest.raises(UnusablePhotoError, match="camera raw"):
            sanitise(tmp_path / "photo")


def test_first_of_several_pictures_is_the_photo(photo, tmp_path):
    other = Image.new("RGB", photo.size, "white")
    for kind in ("TIFF", "PNG"):
        more = {"save_all": True, "append_images": [other]}
        assert the_same(encoded(photo, kind, **more), tmp_path / "photo", photo)


# Limits.


def webp_claiming(width, height):
    body = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\x88\x88\x08\0"
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


READ = """
import resource, sys
from pathlib import Path
from synth_pipeline import image_files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    image_files.decode(Path(sys.argv[1]).read_bytes())
except image_files.BadImageError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("side_px", [16383, 9000])
def test_small_file_that_claims_many_pixels_takes_no_memory(tmp_path, side_px):
    path = tmp_path / "bomb"
    path.write_bytes(webp_claiming(side_px, side_px))
    told = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told[0] == "has more than 60 million pixels"
    assert int(told[1]) < 20_000


def test_every_reader_refuses_too_many_pixels(tmp_path, landmark_model):
    from synth_pipeline import concept_data, face_workers, likeness, memorisation, picture_store
    from synth_pipeline.errors import ClassFailedError, InputError
    from synth_pipeline.face_mesh import face_mesh
    from synth_pipeline.phantom import reference
    from synth_pipeline.report import _thumbnail
    from synth_pipeline.stored_pictures import DamagedPictureError

    path = tmp_path / "store" / "stage" / "key" / "bomb.png"
    path.parent.mkdir(parents=True)
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(InputError):
        picture_store.decode(path, 32)
    with pytest.raises(ClassFailedError):
        concept_data._read(path, "a")
    assert not likeness.describe([path], np.full((1, 478, 3), np.nan)).readable.any()
    with face_workers.sightings(landmark_model, [path], confidence=False, workers=1) as seen:
        assert next(seen).size_px is None
    for read in (_thumbnail, reference._thumbnail):
        with pytest.raises(DamagedPictureError):
            read(path)
    with face_mesh(landmark_model) as mesh, pytest.raises(DamagedPictureError):
        memorisation._points(mesh, [path])


# What passes.


def test_pipe_does_not_keep_us_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnusablePhotoError, match="no regular file"):
        sanitise(tmp_path / "pipe")


def test_what_the_disk_says_is_no_verdict_on_the_photo(photo, tmp_path):
    with pytest.raises(PassingError, match="No such file") as caught:
        sanitise(tmp_path / "Jane Doe.png")
    assert "Jane" not in str(caught.value)
    with pytest.raises(PassingError, match=os.strerror(errno.EISDIR)):
        sanitise(tmp_path)
    # The kernel has no process's memory at address 0: a true EIO.
    with pytest.raises(PassingError, match=os.strerror(errno.EIO)):
        image_files.read_bytes(Path("/proc/self/mem"))


def test_no_free_file_is_no_verdict_on_the_photo(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(PassingError, match="Too many open files"):
            sanitise(tmp_path / "photo.png")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


SHORT = """
import resource, sys
from pathlib import Path
from synth_pipeline.errors import PassingError
from synth_pipeline.photos import sanitise
for path in sys.argv[1:]:
    for free_mb in (10, 25, 60, 600):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (free_mb << 20), -1))
        try:
            sanitise(Path(path))
            print(free_mb, "read")
        except PassingError as error:
            print(free_mb, "passing")
"""


def test_too_little_memory_is_no_verdict_on_the_photo(photo, tmp_path):
    paths = [tmp_path / kind for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")]
    for path in paths:
        photo.resize((3000, 2500)).save(path, path.name)
    told = subprocess.run(
        [sys.executable, "-c", SHORT, *paths], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(told) == 4 * len(paths)
    assert told[::4] == ["10 passing"] * len(paths)
    assert told[3::4] == ["600 read"] * len(paths)


def test_photo_that_changed_since_it_was_hashed_is_not_taken(photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    seen = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sanitise(path, seen).image.tobytes() == photo.tobytes()
    photo.rotate(90).save(path)
    with pytest.raises(PassingError, match="changed while"):
        sanitise(path, seen)


def test_random_bytes_never_raise_anything_else(photo, tmp_path):
    random.seed(0)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        data = encoded(photo.resize((80, 80)), kind)
        for _ in range(40):
            changed = bytearray(data)
            for _ in range(random.choice((1, 5, 50))):
                changed[random.randrange(min(len(data), 400))] = random.randrange(256)
            (tmp_path / "photo").write_bytes(changed)
            with contextlib.suppress(UnusablePhotoError):
                sanitise(tmp_path / "photo")
