"""Progress of long work, told to whoever wants to show it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: Called with (done, total, note); `note` is short and holds no path and no photo's name.
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, note: str = "") -> None:
    """Show nothing: the default wherever a stage is called from a notebook or a test."""


@dataclass
class Throttled:
    """Pass progress on at most once per `interval_s`, and always the last one, with rate and rest.

    Attributes:
        show: receives one finished line of text.
        label: what the line begins with, such as "sampling noonan".
        interval_s: seconds between two lines.
    """

    show: Callable[[str], None]
    label: str
    interval_s: float = 5.0
    _begun_s: float = field(default_factory=time.monotonic)
    _shown_s: float = 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Take one report of `done` out of `total`; the first and the last are always shown."""
        now_s = time.monotonic()
        if done < total and now_s - self._shown_s < self.interval_s:
            return
        self._shown_s = now_s
        rate = done / max(now_s - self._begun_s, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if 0 < done < total else ""
        tail = f", {note}" if note else ""
        self.show(f"{self.label}: {done}/{total}, {rate:.1f}/s{left}{tail}")
