"""Who makes what, across machines that share only a bucket: leases that end by themselves.

An object store knows no locks. What it knows is to write an object only if there is none yet, and
that is all a lease needs: `leases/<name>/<n>`, where the highest n holds. Its holder writes it anew
every few seconds; one that has not changed for a while has lost its holder, and whoever can write
n + 1 follows. No clocks are compared: each machine watches for changes by its own.

A lease saves work, it guards no content: should a holder that was thought dead come back, two
machines make the same artifact, and the manifest that is written first stands.
"""

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from synth_pipeline.bucket import Bucket
from synth_pipeline.errors import SynthPipelineError
from synth_pipeline.json_files import parse_object

logger = logging.getLogger("synth_pipeline")

#: How often a lease is written anew, and looked at by one that waits, in the time that it lasts.
_BEATS, _POLLS = 6, 30


@dataclass(frozen=True)
class Leases:
    """Leases of one machine in one bucket.

    Attributes:
        owner: of the machine's store. Whoever asks holds the kernel's lock there, so a lease with
            its own name was left by a process that is dead.
        expiry_s: how long one may stay unchanged; six beats long, because networks stutter.
    """

    bucket: Bucket
    owner: str
    expiry_s: float

    @contextlib.contextmanager
    def held(self, name: str, is_made: Callable[[], bool]) -> Iterator[None]:
        """Hold the lease of `name`, or return as soon as there is nothing left to be made.

        Args:
            name: of what is to be made.
            is_made: whether another machine has made it meanwhile.
        """
        number = self._wait(name, is_made)
        if number is None:
            yield
            return
        ended = threading.Event()
        heart = threading.Thread(target=self._beat, args=(name, number, ended), daemon=True)
        heart.start()
        try:
            yield
        finally:
            ended.set()
            heart.join()
            # One that cannot be given back ends by itself.
            with contextlib.suppress(SynthPipelineError):
                self.bucket.remove([_place(name, number)])

    def end(self, name: str) -> None:
        """Remove a lease of our own that a dead process left."""
        newest = self._newest(name)
        if newest and self._is_mine(self.bucket.read(_place(name, newest)) or b""):
            self.bucket.remove([_place(name, newest)])

    def _wait(self, name: str, is_made: Callable[[], bool]) -> int | None:
        """Take the lease and return its number; none if it is not needed any more."""
        seen, since_s = b"", 0.0
        while True:
            newest = self._newest(name)
            content = self.bucket.read(_place(name, newest)) if newest else None
            if content is not None and content != seen:
                if not seen and not self._is_mine(content):
                    logger.info("another machine makes %s; waiting for it", name.replace("/", " "))
                seen, since_s = content, time.monotonic()
            is_free = content is None or self._is_mine(content)
            if is_free or time.monotonic() - since_s > self.expiry_s:
                if self.bucket.create(_place(name, newest + 1), self._content()):
                    self.bucket.remove([_place(name, old) for old in range(1, newest + 1)])
                    return newest + 1
                continue
            if is_made():
                return None
            time.sleep(self.expiry_s / _POLLS)

    def _newest(self, name: str) -> int:
        """The highest number of a lease; 0 if there is none."""
        numbers = (found.rpartition("/")[2] for found in self.bucket.list(f"leases/{name}/"))
        return max((int(number) for number in numbers if number.isdigit()), default=0)

    def _is_mine(self, content: bytes) -> bool:
        try:
            return parse_object(content)["owner"] == self.owner
        except (ValueError, KeyError, TypeError):
            return False

    def _content(self) -> bytes:
        return json.dumps({"owner": self.owner, "beat": uuid.uuid4().hex}).encode()

    def _beat(self, name: str, number: int, ended: threading.Event) -> None:
        while not ended.wait(self.expiry_s / _BEATS):
            # The next beat may get through; if none does, another machine follows.
            with contextlib.suppress(SynthPipelineError):
                self.bucket.write(_place(name, number), self._content())


def _place(name: str, number: int) -> str:
    return f"leases/{name}/{number}"
