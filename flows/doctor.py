"""`synth-pipeline doctor`: what is missing on this machine, and the command that mends it."""

import ctypes
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from flows.server_checks import check_server
from synth_pipeline import models, shipped
from synth_pipeline.errors import InputError

_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGLESv2.so.2": "libgles2",
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
}
_NEEDED = ("torch", "diffusers", "transformers", "timm", "mediapipe", "prefect")


def examine(*, fetch: bool, root: Path) -> int:
    """Print one line a check; returns 2 if anything must be mended.

    Args:
        fetch: download the landmark model first, if it is missing.
        root: of which the server is looked at, if there is one.
    """
    if fetch:
        models.fetch_face_landmarker()
    checks: list[Callable[[], Iterator[tuple[bool, str]]]] = [
        _python, _packages, _libraries, _landmark_model, _base_model, _name_clash, _device, _disk,
        lambda: check_server(root.absolute()),
    ]  # fmt: skip
    wrong = 0
    for check in checks:
        for good, text in check():
            print(f"{'ok  ' if good else 'MEND'}  {text}")
            wrong += not good
    return 2 if wrong else 0


def _python() -> Iterator[tuple[bool, str]]:
    found = platform.python_version()
    yield sys.version_info[:2] == (3, 11), f"Python {found} (3.11 is what is tested)"


def _packages() -> Iterator[tuple[bool, str]]:
    for name in _NEEDED:
        try:
            yield True, f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{name} is missing: {shipped.INSTALL} {name}"


def _libraries() -> Iterator[tuple[bool, str]]:
    """MediaPipe and its OpenCV link these even where they compute on the processor."""
    for library, package in _LIBRARIES.items():
        try:
            ctypes.CDLL(library)
            yield True, library
        except OSError:
            yield False, f"{library} is missing: apt-get install {package}"


def _landmark_model() -> Iterator[tuple[bool, str]]:
    try:
        yield True, f"landmark model {models.face_landmarker_path()}"
    except InputError as error:
        yield False, str(error)


def _base_model() -> Iterator[tuple[bool, str]]:
    from synth_pipeline.base_model import resolve_base

    try:
        yield True, f"embedded base model {resolve_base('embedded').identity[:16]}"
    except InputError as error:
        yield False, str(error)


def _name_clash() -> Iterator[tuple[bool, str]]:
    """PyPI has packages that are also called `tasks` and `flows`."""
    ours = Path(__file__).parent.parent
    for name in ("tasks", "flows"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).parent.parent if spec and spec.origin else None
        if origin == ours:
            yield True, f"the package {name} is ours"
        else:
            yield False, f"another package {name} hides ours ({origin}): pip uninstall {name}"


def _device() -> Iterator[tuple[bool, str]]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            yield True, f"GPU {index}: {card.name}, {card.total_memory / 2**30:.0f} GiB"
    else:
        yield True, "no GPU: everything runs on the processor, slowly (quickstart is made for it)"


def _disk() -> Iterator[tuple[bool, str]]:
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    yield free_gib > 5, f"{free_gib:.0f} GiB free here (a study of 103 classes needs about 5)"
