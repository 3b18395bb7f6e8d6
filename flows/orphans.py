"""No process is left behind when a run is killed: what it has started ends with it.

A run that ends in order stops its own server; one that is interrupted ends what is left besides,
such as a process that was just being started. After `kill -9`, or when the kernel is out of memory,
that would stay for ever. So a small process waits at a pipe that the kernel closes however the run
ends, and then ends what carries the run's mark in its environment.
"""

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

_MARK = "SYNTH_PIPELINE_RUN"

#: From the polite signal to the other one, after a run was killed, and at the end of `up`.
_GRACE_S, _LAST_GRACE_S = 15.0, 1.0

# Runs alone, without site packages: it starts in 20 ms and holds 10 MB.
_WATCH = f"""
import os, signal, sys, time

def marked():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open("/proc/" + name + "/environ", "rb") as stream:
                    if mark in stream.read().split(b"\\0"):
                        yield int(name)
            except OSError:
                pass

def end(number):
    found = list(marked())
    for process in found:
        try:
            os.kill(process, number)
        except OSError:
            pass
    return found

if sys.argv[2] == "wait":
    sys.stdin.buffer.read()
mark = ("{_MARK}=" + sys.argv[1]).encode()
end(signal.SIGTERM)
patience = time.monotonic() + float(sys.argv[3])
while time.monotonic() < patience and list(marked()):
    time.sleep(0.1)
end(signal.SIGKILL)
"""


@contextlib.contextmanager
def ended_with_us() -> Iterator[str]:
    """End every process that is started inside, should this one be killed; needs `/proc`.

    Gives the mark that they carry.
    """
    mark = uuid.uuid4().hex
    if not Path("/proc/self").is_dir():
        yield mark
        return
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, mark, "wait", str(_GRACE_S)],
        stdin=subprocess.PIPE,
        # Ctrl-C goes to the whole group, and the watcher must outlive us.
        start_new_session=True,
    )
    os.environ[_MARK] = mark
    try:
        yield mark
    except KeyboardInterrupt:
        # It may have come when a process was started, but nobody had noted yet that it runs.
        end_the_rest(mark)
        raise
    finally:
        # Before the pipe closes: what was started has been stopped in order.
        watcher.kill()
        watcher.communicate()
        del os.environ[_MARK]


def end_the_rest(mark: str) -> None:
    """End what still carries a mark: the runs of a worker that was stopped, for instance."""
    if Path("/proc/self").is_dir():
        last = (mark, "now", str(_LAST_GRACE_S))
        subprocess.run([sys.executable, "-I", "-S", "-c", _WATCH, *last], check=False)
