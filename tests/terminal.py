"""A real terminal: a command under a pseudo-terminal that is its controlling one."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.command_line import Ended

#: What a terminal sends for Ctrl-C.
CTRL_C = b"\x03"


def in_terminal(
    line: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    limit_s: float,
    act: Callable[[int, int], bool] = lambda terminal, pid: True,
) -> Ended:
    """Run a command in a terminal to its end.

    Args:
        line: program and arguments.
        cwd: its current folder.
        env: its whole environment.
        limit_s: after which it is killed and the test fails; generous, for a busy machine.
        act: called with the terminal's handle and the process's id, every few milliseconds, until
            it says that it has done what it waited for.

    Returns:
        Its exit code, and all that the terminal showed (as `out`; a terminal has no `err`).
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        line,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env=dict(env),
        # A session of its own whose controlling terminal is this one, as a shell's child has it.
        preexec_fn=lambda: _as_a_child_of_a_shell(theirs),
    )
    os.close(theirs)
    shown = bytearray()
    deadline_s = time.monotonic() + limit_s
    acted = False
    try:
        while time.monotonic() < deadline_s:
            acted = acted or act(ours, process.pid)
            ready, _, _ = select.select([ours], [], [], 1 if acted else 0.005)
            if not ready:
                if process.poll() is not None:
                    break
                continue
            try:
                block = os.read(ours, 65536)
            except OSError:
                # The last process that held the terminal has ended.
                break
            if not block:
                break
            shown += block
        code = process.wait(max(1, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"{line} did not end: {shown.decode(errors='replace')}") from None
    finally:
        os.close(ours)
    return Ended(code, shown.decode(errors="replace").replace("\r\n", "\n"), "")


def _as_a_child_of_a_shell(terminal: int) -> None:
    os.login_tty(os.dup(terminal))
    # Where the tests run in the background, Ctrl-C is ignored, and a child would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
