"""The sign of life of a run that a worker took, in the folder that all machines share.

Prefect shows a run whose machine died as "Running" for ever. So each such run holds a file: locked
by the kernel, which frees it the moment that the process is gone, and written to every two seconds.
Whoever waits for the run looks at both. Clocks of two machines are never compared: only whether
the file's content has changed for a while, by the watcher's own clock.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from synth_pipeline.errors import StageError

BEAT_S = 2.0
#: Free and silent for so long: the process is gone. A living one could be between two beats.
GONE_S = 2.5 * BEAT_S
#: Silent for so long, though the lock is held: a file system that keeps the locks of dead machines.
SILENT_S = 180.0
_ENDED = b"ended"
_GIVEN_UP = b"given up"


def lease_path(studies_folder: Path, run_id: str) -> Path:
    """Where the run keeps its lease, under `<root>/studies/<name>/`."""
    return studies_folder / ".runs" / run_id


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lease; what is left behind says whether the holder came to its end or died.

    Raises:
        StageError: nobody waits for this run any more. Were it to go on, Prefect would show it as
            running again, and nobody would take its lease away.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    stop = threading.Event()

    def write(content: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk; the lock still tells
            os.pwrite(handle, content.ljust(32), 0)

    def beat() -> None:
        beats = 0
        while not stop.wait(BEAT_S):
            beats += 1
            write(str(beats).encode())

    try:
        # A watcher may be looking just now; it looks for microseconds.
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.pread(handle, len(_GIVEN_UP), 0) == _GIVEN_UP:
            path.unlink(missing_ok=True)
            raise StageError("This run began too late; its work was given to another run.")
        write(b"0")
        heart = threading.Thread(target=beat, name="lease", daemon=True)
        heart.start()
        try:
            yield
        finally:
            stop.set()
            heart.join()
            write(_ENDED)
    finally:
        os.close(handle)


@dataclass
class Watch:
    """What a watcher knows of one lease.

    Attributes:
        path: the lease; it may not be there yet.
    """

    path: Path
    _content: bytes = b""
    _changed_s: float = field(default_factory=time.monotonic)

    def taken(self) -> bool:
        """Whether a run has ever held it."""
        return self.path.exists()

    def ended(self) -> bool:
        """Whether its holder came to the end of its work."""
        return self._read().startswith(_ENDED)

    def dead(self) -> bool:
        """Whether its holder is gone without having come to its end."""
        content = self._read()
        now_s = time.monotonic()
        if content != self._content:
            self._content, self._changed_s = content, now_s
        if not self.taken() or content.startswith(_ENDED):
            return False
        silent_s = now_s - self._changed_s
        return silent_s > SILENT_S or (silent_s > GONE_S and self._free())

    def give_up(self) -> None:
        """Keep a run that has not begun from beginning; it takes the note away itself.

        Raises:
            FileExistsError: it has begun.
        """
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        # Whole from the moment that it is there: an empty one would let the run begin.
        beside = self.path.with_name(f".{self.path.name}")
        beside.write_bytes(_GIVEN_UP)
        try:
            os.link(beside, self.path)
        finally:
            beside.unlink()

    def remove(self) -> None:
        """Take away what a run has left."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes().strip()
        except OSError:
            return b""

    def _free(self) -> bool:
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError:
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True
