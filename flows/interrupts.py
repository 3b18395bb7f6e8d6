"""End in order on Ctrl-C, on a polite `kill`, and when the terminal is closed.

The first signal raises `KeyboardInterrupt` in the main thread, whichever it was. Later ones are
ignored, so that an impatient second Ctrl-C does not disturb the tidying up. Where the exception is
lost in a finalizer, it is raised again. A library may swallow it, or be in C code for long: then a
thread ends the process before ten seconds have passed, and the small process of flows/orphans.py
ends what it had started.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

#: From the first signal to the end that is not in order.
PATIENCE_S = 8.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """The signals that end a command, and the end of it.

    Args:
        last_words: prints a sentence; it is called once.
        stopped: the sentence, which says what is kept and how to go on.
    """

    def __init__(self, last_words: Callable[[str], None], stopped: str) -> None:
        self._last_words = last_words
        self._sentence = stopped
        self._code: int | None = None
        self._raised = False
        self._first: int | None = None
        self._said = threading.Lock()
        self._lost = threading.Event()

    @property
    def happened(self) -> bool:
        """Whether there was a signal."""
        return self._first is not None

    def end_now(self) -> NoReturn:
        """Say the last words, and end with the exit code that shells expect, such as 130.

        All that is to be tidied up is done by now; Python's own end takes two seconds of a core
        when torch is loaded.
        """
        # Never released: whoever comes first, the main thread or the one that watches, ends both.
        self._said.acquire()
        with contextlib.suppress(OSError):  # the terminal is gone
            sys.stdout.flush()
            self._last_words(self._sentence)
        os._exit(128 + (self._first or signal.SIGINT) if self._code is None else self._code)

    def give_up(self, sentence: str, code: int) -> None:
        """End the command as a signal does, for another reason; called by another thread."""
        self._sentence, self._code = sentence, code
        self._first = self._first or signal.SIGTERM
        self._interrupt()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise `KeyboardInterrupt` at the first signal."""
        self._first = self._first or number
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def unraisable(self, told: "sys.UnraisableHookArgs") -> None:
        """The hook for exceptions in finalizers and callbacks, where they come to nothing."""
        if self.happened and issubclass(told.exc_type, KeyboardInterrupt):
            self._lost.set()
        else:
            sys.__unraisablehook__(told)

    def watch(self, pipe: int) -> None:
        """Wait for a signal's number in a pipe; end the process a while after it."""
        # It stays open: the interpreter complains when it cannot write of the next signals.
        with os.fdopen(pipe, "rb", buffering=0) as numbers:
            while (number := numbers.read(1)) and number[0] not in _SIGNALS:
                pass
            if number:
                self._first = self._first or number[0]
                self._wait_for_the_end()

    def _interrupt(self) -> None:
        """Have the signal once more, in the main thread."""
        signal.pthread_kill(threading.main_thread().ident or 0, self._first or signal.SIGTERM)

    def _wait_for_the_end(self) -> NoReturn:
        deadline_s = time.monotonic() + PATIENCE_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            if self._lost.wait(left_s):
                # Once more, in the hope that it hits better.
                self._lost.clear()
                self._raised = False
                self._interrupt()
        self.end_now()


@contextlib.contextmanager
def interrupts(last_words: Callable[[str], None], stopped: str) -> Iterator[Interrupts]:
    """Handle the signals while a command runs; needs the main thread.

    Args:
        last_words: see `Interrupts`.
        stopped: as well.

    A signal that is ignored when the process starts stays ignored: `nohup`, or a job in the
    background of a script.
    """
    global _current
    found = _current = Interrupts(last_words, stopped)
    # The interpreter writes each signal's number into the pipe at once, also while C code runs.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    thread = threading.Thread(target=found.watch, args=(reading,), name="interrupts", daemon=True)
    thread.start()
    before = {
        number: signal.signal(number, found.handle)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    hook, sys.unraisablehook = sys.unraisablehook, found.unraisable
    ours = os.getpid()
    try:
        yield found
    finally:
        # After a signal the handlers stay to the end of the process.
        if os.getpid() == ours and not found.happened:
            sys.unraisablehook = hook
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(writing)


#: Of the command that runs.
_current: Interrupts | None = None


def give_up(sentence: str) -> None:
    """End the command that runs with a sentence and exit code 1, from another thread."""
    if _current is not None:
        _current.give_up(sentence, 1)


def _let_the_parent_decide() -> None:
    """In a forked process: Ctrl-C is for the parent, and a polite `kill` ends this one alone."""
    if signal.set_wakeup_fd(-1) != -1:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_let_the_parent_decide)
