"""MediaPipe's face mesh: 478 points of the largest face in each image."""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from synth_pipeline.errors import ClassFailedError, StageError
from synth_pipeline.progress import Progress, silent

POINTS = 478
_MOST_FACES = 5

# Of each architecture: its number in the audit interface, and its system call `socket`.
_SOCKET_CALL = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_AF_INET, _AF_INET6 = 2, 10
# Classic BPF (linux/bpf_common.h) and what a filter answers (linux/seccomp.h).
_LOAD, _IF_EQUAL, _ANSWER = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
# Offsets in `struct seccomp_data`.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16


@dataclass(frozen=True)
class LandmarkTable:
    """Landmarks of several images.

    Attributes:
        image_ids: N ids, in the order of the table.
        found: (N,) bool, whether a face was found.
        points_px: (N, 478, 3) float32; x right, y down, z away from the camera, all in pixels of
            the image; not-a-number where no face was found.
    """

    image_ids: tuple[str, ...]
    found: np.ndarray
    points_px: np.ndarray


def run(
    images: Sequence[tuple[str, Path]],
    *,
    model: Path,
    out_dir: Path,
    class_id: str,
    require_face: bool,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `landmarks.parquet` for images of one class.

    Args:
        images: id and file of each, RGB.
        model: `face_landmarker.task`.
        out_dir: an empty folder.
        class_id: for the message.
        require_face: whether a class without any face is an error (real photos), or only a fact
            (synthetic images).
        progress: told after each image.

    Returns:
        How many images there were, and in how many a face was found.

    Raises:
        ClassFailedError: `require_face`, and there is no face in any image.
        StageError: this system cannot keep MediaPipe from reporting its use to Google.
    """
    rows = []
    with _detector(model) as detect:
        for done, (image_id, path) in enumerate(images, start=1):
            with Image.open(path) as opened:
                pixels_HWC = np.asarray(opened.convert("RGB"))
            points_px, faces = _largest_face(detect, pixels_HWC)
            rows.append(
                {
                    "image_id": image_id,
                    "found": points_px is not None,
                    "faces": faces,
                    "width_px": pixels_HWC.shape[1],
                    "height_px": pixels_HWC.shape[0],
                    "points": None if points_px is None else points_px.ravel(),
                }
            )
            progress(done, len(images), "")
    found = sum(row["found"] for row in rows)
    if require_face and not found:
        raise ClassFailedError(
            class_id,
            f"no face was found in any of its {len(rows)} training photos; "
            "add a photo that shows the face from the front, or leave the class out.",
        )
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out_dir / "landmarks.parquet")
    return {"images": len(rows), "found": found}


_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("found", pa.bool_()),
        ("faces", pa.int32()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("points", pa.list_(pa.float32())),
    ]
)


def load(folder: Path) -> LandmarkTable:
    """Read a `landmarks` artifact."""
    table = pq.read_table(folder / "landmarks.parquet")
    found = table["found"].to_numpy()
    points_px = np.full((len(found), POINTS, 3), np.nan, np.float32)
    for place, row in enumerate(table["points"]):
        if row.is_valid:
            points_px[place] = row.values.to_numpy().reshape(POINTS, 3)
    return LandmarkTable(tuple(table["image_id"].to_pylist()), found, points_px)


@contextmanager
def face_finder(model: Path) -> Iterator[Callable[[np.ndarray], bool]]:
    """A function that tells whether (H, W, 3) uint8 pixels hold a face, as `run` sees it.

    Args:
        model: `face_landmarker.task`.

    Raises:
        StageError: as of `run`.
    """
    with _detector(model) as detect:
        yield lambda pixels_HWC: _largest_face(detect, pixels_HWC)[0] is not None


@contextmanager
def _detector(model: Path) -> Iterator[Any]:
    """A function from (H, W, 3) uint8 to MediaPipe's result; all of it runs offline."""
    with _offline_worker() as worker:
        landmarker, image = worker.submit(_landmarker, model).result()
        try:
            yield lambda pixels: worker.submit(landmarker.detect, image(pixels)).result()
        finally:
            # Closed by hand: left to the interpreter's end, it prints a traceback.
            worker.submit(landmarker.close).result()


def _landmarker(model: Path) -> tuple[Any, Callable[[np.ndarray], Any]]:
    """MediaPipe's detector, and a function that wraps (H, W, 3) uint8 pixels for it."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    def image(pixels: np.ndarray) -> Any:
        return mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))

    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(model)), num_faces=_MOST_FACES
    )
    with _quiet():
        landmarker = vision.FaceLandmarker.create_from_options(options)
        # The graph is built, and its notices written, with the first picture.
        landmarker.detect(image(np.zeros((64, 64, 3), np.uint8)))
    return landmarker, image


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _offline_worker() -> ThreadPoolExecutor:
    """One thread that cannot reach the internet; the threads that it starts cannot either.

    MediaPipe 1.2.2 reports its use to https://play.googleapis.com/log (its privacy notice of June
    2026; google-ai-edge/mediapipe issue 6291). Measured: none of its options keeps it from looking
    that address up, and it reads no environment variable for it. So the kernel forbids it. Other
    threads keep their network, and a caller's progress may need it.

    Raises:
        StageError: this system cannot forbid it, so the work must not be done here.
    """
    if sys.platform != "linux" or platform.machine() not in _SOCKET_CALL:
        raise StageError(
            "MediaPipe reports its use to Google, and only Linux on x86_64 or aarch64 lets us "
            "forbid it; find the landmarks there, for instance in a container."
        )
    worker = ThreadPoolExecutor(1, thread_name_prefix="offline")
    try:
        worker.submit(_forbid_internet).result()
    except OSError as error:
        worker.shutdown()
        raise StageError(
            f"The kernel refused a seccomp filter ({error.strerror}), without which MediaPipe "
            "would report its use to Google; allow seccomp in this container."
        ) from None
    return worker


def _forbid_internet() -> None:
    """Let `socket` fail for IPv4 and IPv6, in this thread and those that it starts, for good."""
    architecture, socket_call = _SOCKET_CALL[platform.machine()]
    # The two numbers after a comparison are how many lines to skip if equal, and if not.
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 0, 6, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 0, 4, socket_call),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_EQUAL, 1, 0, _AF_INET),
        (_IF_EQUAL, 0, 1, _AF_INET6),
        (_ANSWER, 0, 0, _FAIL | errno.EACCES),
        (_ANSWER, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("<HBBI", *line) for line in lines)
    kept = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(lines), ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, errno.errorcode.get(number, str(number)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MediaPipe's C++ notices off the terminal; no setting of its own does that."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _largest_face(detect: Any, pixels_HWC: np.ndarray) -> tuple[np.ndarray | None, int]:
    """(478, 3) float32 pixels of the largest face, or none; and the number of faces."""
    faces = _faces(detect, pixels_HWC, 0)
    if not faces:
        # A tight crop: the detector wants some room around a face.
        margin = max(pixels_HWC.shape[:2]) // 2
        padded = np.pad(pixels_HWC, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        faces = _faces(detect, padded, margin)
    if not faces:
        return None, 0
    areas = [float(np.prod(np.ptp(face[:, :2], axis=0))) for face in faces]
    return faces[int(np.argmax(areas))], len(faces)


def _faces(detect: Any, pixels_HWC: np.ndarray, margin_px: int) -> list[np.ndarray]:
    height_px, width_px = pixels_HWC.shape[:2]
    return [
        np.array(
            [
                # z is given in the unit of x, which is the image's width.
                (p.x * width_px - margin_px, p.y * height_px - margin_px, p.z * width_px)
                for p in face
            ],
            np.float32,
        )
        for face in detect(pixels_HWC).face_landmarks
    ]
