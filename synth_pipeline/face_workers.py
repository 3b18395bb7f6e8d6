"""Processes that look for faces in files: all cores, and kept for the next class.

A process of one's own, not a thread: Python's part of the work does not wait for other threads, a
picture on which MediaPipe's C++ should crash takes nothing else with it, and its notices go
nowhere.

Only an answer of a process is a result. A process that dies gave none: its picture is asked again,
of a new process, with half as many beside it, because the usual cause is that memory runs out. If
the process dies again and again when it is the only one, the search fails with an error.
"""

import atexit
import logging
import os
import signal
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
from typing import Any

import numpy as np

from synth_pipeline.errors import StageError
from synth_pipeline.face_mesh import Face, FaceMesh, face_mesh
from synth_pipeline.stored_pictures import DamagedPictureError, read_picture

logger = logging.getLogger("synth_pipeline")

#: A worker that is asked nothing for so long gives its quarter of a gigabyte back.
_IDLE_S = 60
#: A worker costs a second to begin, if none is left from the class before.
_IMAGES_FOR_A_WORKER = 8
#: Each takes a quarter of a gigabyte.
_MOST_WORKERS = 8
#: Without memory for its threads MediaPipe may wait for ever; no picture takes nearly so long.
_PATIENCE_S = 300
#: How many workers may die with a picture, each as the only one, before the search fails.
_LONELY_DEATHS = 3
_OUT_OF_MEMORY_CODE = 86
_READY = "ready"
_BEGIN = """
import signal, sys
# Ctrl-C reaches every process of the terminal; the one that asks decides when this one ends.
signal.signal(signal.SIGINT, signal.SIG_IGN)
from synth_pipeline.face_workers import serve
sys.exit(serve(sys.argv[1], int(sys.argv[2])))
"""


@dataclass(frozen=True)
class Sighting:
    """What was seen in one file.

    Attributes:
        size_px: width and height; none for a file that is damaged.
        face: its largest face, or none.
    """

    size_px: tuple[int, int] | None
    face: Face | None


def workers_for(images: int) -> int:
    """How many workers so many images are worth: one for each core at most."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, _MOST_WORKERS, images // _IMAGES_FOR_A_WORKER))


@contextmanager
def sightings(
    model: Path,
    paths: Sequence[Path],
    *,
    confidence: bool,
    workers: int,
    search: bool = True,
    names: Sequence[str] | None = None,
) -> Iterator[Iterator[Sighting]]:
    """Look for faces in files.

    Args:
        model: `face_landmarker.task`.
        paths: RGB images.
        confidence: ask for the detector's too, which takes a sixth more time.
        workers: processes that share the work; they never change its result.
        search: for small and turned faces too, where the first look sees none for sure.
        names: what an error calls each image; its number by default.

    Returns:
        One for each file, in the order of the files. The iterator raises the errors below.

    Raises:
        StageError: workers die again and again, or cannot be started; a file cannot be read; or
            this system cannot keep MediaPipe from reporting its use to Google.
    """
    crew = _Crew(model, workers)
    ask = _Ask(confidence, search)
    called = names or [f"image {number}" for number in range(1, len(paths) + 1)]
    pool = ThreadPoolExecutor(workers, thread_name_prefix="faces")
    try:
        yield pool.map(lambda path, name: crew.look(path, name, ask), paths, called)
    finally:
        pool.shutdown(cancel_futures=True)
        crew.rest()


@dataclass(frozen=True)
class _Ask:
    """What a worker is asked of a picture, as `FaceMesh.find_here` takes it."""

    confidence: bool
    search: bool


class _DeathError(Exception):
    """A worker is gone, and gave no answer.

    Attributes:
        how: in words, such as "was killed (SIGKILL)"; nothing if it had only been idle for long.
        begun: whether it had started, so that the picture may be the cause.
    """

    def __init__(self, how: str, begun: bool) -> None:
        super().__init__(how)
        self.how, self.begun = how, begun


class _Crew:
    """Workers that take pictures in turn; fewer after each death.

    Args:
        model: `face_landmarker.task`.
        size: how many at first.
    """

    def __init__(self, model: Path, size: int) -> None:
        self._model = model
        # A place without a worker gets one when it is taken.
        self._places: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(size):
            self._places.put(_taken(model))
        self._size = size
        self._narrowing = threading.Lock()
        self._failure: StageError | None = None

    def look(self, path: Path, name: str, ask: _Ask) -> Sighting:
        """What a worker answers.

        Raises:
            StageError: as of `sightings`.
        """
        lonely_deaths = 0
        while True:
            if self._failure:
                # Nobody waits for the others any more.
                raise self._failure
            worker, size = self._places.get(), self._size
            try:
                worker = worker or _Worker(self._model)
                answer = worker.look(path, ask)
            except _DeathError as death:
                if worker:
                    worker.close()
                self._places.put(None)
                if not death.how:
                    continue
                lonely_deaths += size == 1
                if lonely_deaths == _LONELY_DEATHS:
                    self._failure = StageError(_in_words(death, name))
                    raise self._failure from None
                self._narrow(size, death)
            except BaseException:
                self._places.put(worker)
                raise
            else:
                self._places.put(worker)
                return answer

    def rest(self) -> None:
        """Keep the workers for the next class; nobody may be looking."""
        resting = [worker for _ in range(self._size) if (worker := self._places.get())]
        with _LOCK:
            _IDLE.extend(resting)

    def _narrow(self, size: int, death: _DeathError) -> None:
        """Halve the workers, unless another death has done so since `size` was read."""
        with self._narrowing:
            if self._size < size or size == 1:
                return
            while self._size > size // 2:
                # The others are awaited: this thread holds no place.
                if worker := self._places.get():
                    worker.close()
                self._size -= 1
        logger.warning(
            "a process that looks for faces %s; trying again with %d at a time instead of %d",
            death.how,
            self._size,
            size,
        )


def _in_words(death: _DeathError, name: str) -> str:
    if not death.begun:
        return (
            f"A process that looks for faces does not start: it {death.how}, {_LONELY_DEATHS} "
            "times. Most likely the memory is too small: a process needs about 1 GB. Give more "
            "memory, or run less beside it, and run the same command again; `synth-pipeline "
            "doctor` says whether a library is missing."
        )
    return (
        f"Whether {name} shows a face could not be found out: the process that looked at it "
        f"{death.how}, {_LONELY_DEATHS} times, with no other beside it. Most likely the memory is "
        "too small: a process needs about 1 GB, and more for a very large picture. Give more "
        "memory, or run less beside it, and run the same command again; if it is always this "
        "picture, leave it out."
    )


class _Worker:
    def __init__(self, model: Path) -> None:
        self.model = model
        self._begun = False
        try:
            self.connection, theirs = Pipe()
        except OSError as error:
            raise _DeathError(f"got no pipe ({error.strerror})", False) from None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BEGIN, str(model), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": _module_path()},
            )
        except OSError as error:
            self.connection.close()
            raise _DeathError(f"was refused by the system ({error.strerror})", False) from None
        finally:
            theirs.close()

    def look(self, path: Path, ask: _Ask) -> Sighting:
        """The worker's own answer.

        Raises:
            _DeathError: it gave none.
            StageError: it says that it cannot work.
        """
        try:
            if not self._begun:
                self._answer()
                self._begun = True
            # Where it has ended, what it said last can still be read.
            with suppress(BrokenPipeError):
                # It may have been started in another folder than this process is in now.
                self.connection.send((path.absolute(), ask))
            return self._answer()
        except (EOFError, OSError):
            raise _DeathError(self._how_it_ended(), self._begun) from None

    def close(self) -> None:
        self.connection.close()
        self.process.wait()

    def _answer(self) -> Any:
        if not self.connection.poll(_PATIENCE_S):
            self.process.kill()
            self.process.wait()
            raise _DeathError(f"did not answer for {_PATIENCE_S} s", self._begun)
        answer = self.connection.recv()
        if isinstance(answer, StageError):
            raise answer
        return answer

    def _how_it_ended(self) -> str:
        self.connection.close()
        code = self.process.wait()
        if code == _OUT_OF_MEMORY_CODE:
            return "ran out of memory"
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL, as the system does when memory runs out)"
        if code < 0:
            return f"crashed ({signal.Signals(-code).name})"
        return f"ended with the code {code}" if code else ""


def _module_path() -> str:
    """Where a worker finds its modules: where we do, but not in the current folder.

    An empty entry means that folder (in a notebook, or after `python -c`), in which a file may be
    called like a module. This package may have been found through it, so its place is named.
    """
    return os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parents[1])])


_IDLE: list[_Worker] = []
_LOCK = threading.Lock()


def _taken(model: Path) -> _Worker | None:
    """A worker that is left from before, if there is one."""
    with _LOCK:
        for worker in _IDLE:
            if worker.model == model:
                _IDLE.remove(worker)
                return worker
    return None


@atexit.register
def _close_all() -> None:
    with _LOCK:
        while _IDLE:
            _IDLE.pop().close()


def serve(model: str, handle: int) -> int:
    """Answer until nothing is asked any more, or the one that asks is gone.

    Args:
        model: `face_landmarker.task`.
        handle: of this process's end of the pipe.

    Returns:
        The exit code: 0 only for an end in peace, so that no other end passes for one.
    """
    connection = Connection(handle)
    try:
        with face_mesh(Path(model)) as mesh:
            connection.send(_READY)
            mesh.worker.submit(_answer, mesh, connection).result()
    except StageError as error:
        connection.send(error)
    except MemoryError:
        return _OUT_OF_MEMORY_CODE
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    return 0


def _answer(mesh: FaceMesh, connection: Connection) -> None:
    while connection.poll(_IDLE_S):
        connection.send(_sighting(mesh, *connection.recv()))


def _sighting(mesh: FaceMesh, path: Path, ask: _Ask) -> Sighting:
    try:
        pixels_HWC = np.asarray(read_picture(path))
    except DamagedPictureError:
        return Sighting(None, None)
    height_px, width_px = pixels_HWC.shape[:2]
    face = mesh.find_here(pixels_HWC, confidence=ask.confidence, search=ask.search)
    return Sighting((width_px, height_px), face)
