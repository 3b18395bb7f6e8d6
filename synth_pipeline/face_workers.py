"""Processes that look for faces in files: all cores, and kept for the next class.

A process of one's own, not a thread: Python's part of the work does not wait for other threads, a
picture on which MediaPipe's C++ should crash takes nothing else with it, and its notices go
nowhere.
"""

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from PIL import Image

from synth_pipeline.errors import StageError
from synth_pipeline.face_mesh import Face, FaceMesh, face_mesh

#: A worker that is asked nothing for so long gives its quarter of a gigabyte back.
_IDLE_S = 60
_BEGIN = """
import sys
from synth_pipeline.face_workers import serve
serve(sys.argv[1], int(sys.argv[2]))
"""


@dataclass(frozen=True)
class Sighting:
    """What was seen in one file.

    Attributes:
        size_px: width and height; none for a file that cannot be read.
        face: its largest face, or none.
    """

    size_px: tuple[int, int] | None
    face: Face | None


@contextmanager
def sightings(
    model: Path, paths: Sequence[Path], *, confidence: bool, workers: int
) -> Iterator[Iterator[Sighting]]:
    """Look for faces in files.

    Args:
        model: `face_landmarker.task`.
        paths: RGB images.
        confidence: ask for the detector's too, which takes a sixth more time.
        workers: processes that share the work; they never change its result.

    Returns:
        One for each file, in the order of the files.

    Raises:
        StageError: this system cannot keep MediaPipe from reporting its use to Google.
    """
    free: SimpleQueue[_Worker] = SimpleQueue()
    for _ in range(workers):
        free.put(_taken(model))

    def look(path: Path) -> Sighting:
        worker = free.get()
        try:
            try:
                return worker.look(path, confidence)
            except (EOFError, OSError):
                # It had been idle for too long, or was killed, or MediaPipe crashed.
                worker.close()
                worker = _Worker(model)
            try:
                return worker.look(path, confidence)
            except (EOFError, OSError):
                worker.close()
                worker = _Worker(model)
                return Sighting(None, None)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="faces")
    try:
        yield pool.map(look, paths)
    finally:
        pool.shutdown(cancel_futures=True)
        with _LOCK:
            _IDLE.extend(free.get() for _ in range(workers))


class _Worker:
    def __init__(self, model: Path) -> None:
        self.model = model
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, str(model), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # It finds this package as we did, from a notebook too.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        theirs.close()

    def look(self, path: Path, confidence: bool) -> Sighting:
        # Where it has ended, what it said last can still be read.
        with suppress(BrokenPipeError):
            self.connection.send((path, confidence))
        answer = self.connection.recv()
        if isinstance(answer, StageError):
            raise answer
        return answer

    def close(self) -> None:
        self.connection.close()
        self.process.wait()


_IDLE: list[_Worker] = []
_LOCK = threading.Lock()


def _taken(model: Path) -> _Worker:
    with _LOCK:
        for worker in _IDLE:
            if worker.model == model:
                _IDLE.remove(worker)
                return worker
    return _Worker(model)


@atexit.register
def _close_all() -> None:
    with _LOCK:
        while _IDLE:
            _IDLE.pop().close()


def serve(model: str, handle: int) -> None:
    """Answer until nothing is asked any more, or the one that asks is gone.

    Args:
        model: `face_landmarker.task`.
        handle: of this process's end of the pipe.
    """
    connection = Connection(handle)
    try:
        with face_mesh(Path(model)) as mesh:
            mesh.worker.submit(_answer, mesh, connection).result()
    except StageError as error:
        connection.send(error)
    except (EOFError, OSError):
        pass


def _answer(mesh: FaceMesh, connection: Connection) -> None:
    while connection.poll(_IDLE_S):
        connection.send(_sighting(mesh, *connection.recv()))


def _sighting(mesh: FaceMesh, path: Path, confidence: bool) -> Sighting:
    try:
        with Image.open(path) as opened:
            pixels_HWC = np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        # What Pillow raises for a file that is cut short or was never an image.
        return Sighting(None, None)
    height_px, width_px = pixels_HWC.shape[:2]
    return Sighting((width_px, height_px), mesh.find_here(pixels_HWC, confidence=confidence))
