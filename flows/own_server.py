"""The Prefect server of `engine: inline`: started for one run, closed to everybody else.

It has what the server of `up` has: the loopback interface only, a secret of this run, CSRF tokens,
its own host name only. It is a session of its own, so that Ctrl-C on a terminal does not end it
before the run has told it how it ended.
"""

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from flows.environment import prepare
from flows.server import Server
from synth_pipeline.errors import StageError

logger = logging.getLogger("synth_pipeline")

#: The first start creates the database, which takes a while on a busy machine.
_START_S = 180.0
#: From the polite signal to the other one. Everything is in the database by then.
_STOP_S = 3.0
#: One that ends again and again is not started in a circle.
_MOST_STARTS = 4


def listening(port: int = 0) -> socket.socket:
    """A socket that listens on the loopback interface, at a port or at any that is free.

    Raises:
        OSError: the port is taken.
    """
    found = socket.socket()
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("127.0.0.1", port))
        found.listen(128)
    except OSError:
        found.close()
        raise
    return found


def closed(server: Server) -> dict[str, str]:
    """Settings of a server that lets in who knows its secret, and no page but its own."""
    assert server.secret is not None
    return {
        "PREFECT_SERVER_API_AUTH_STRING": server.secret,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        # Only the dashboard, which comes from the server itself.
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": server.url.removesuffix("/api"),
    }


def wait_until_it_answers(
    server: Server, process: "subprocess.Popen[bytes]", log: Path, patience_s: float = _START_S
) -> None:
    """Wait for a server that was started.

    Raises:
        StageError: it ended, or does not answer for so long.
    """
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{server.url}/health", timeout=1, trust_env=False).status_code == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    told = last_line(log.read_text(errors="replace"))
    raise StageError(f"The Prefect server did not start; see {log}: {told}")


def last_line(text: str) -> str:
    """What a program said last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def stop(processes: "Sequence[subprocess.Popen[bytes]]", patience_s: float) -> None:
    """Ask all to end, and wait for that; whoever does not listen is killed."""
    for process in processes:
        process.terminate()
    deadline_s = time.monotonic() + patience_s
    for process in processes:
        try:
            process.wait(max(deadline_s - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class OwnServer:
    """A server for one run; a context manager, which starts and ends it.

    It starts while this process imports Prefect: `ready` waits for it.

    Args:
        root: of the study; Prefect's database lies there.
    """

    def __init__(self, root: Path) -> None:
        self._starts = 0
        self._stopping = False
        self._lock = threading.Lock()
        self._log = root / "prefect" / "logs" / "inline-server.log"
        self._listener = listening()
        port = self._listener.getsockname()[1]
        self.server = Server(f"http://127.0.0.1:{port}/api", new_secret())
        prepare(root, self.server, own=True)
        self._log.parent.mkdir(mode=0o700, exist_ok=True)

    def __enter__(self) -> "OwnServer":
        self._start()
        return self

    def ready(self) -> None:
        """Wait until it answers.

        Raises:
            StageError: it did not start.
        """
        wait_until_it_answers(self.server, self._process, self._log)

    def revive(self) -> None:
        """Start it again, at the same port, if it has ended; a few times at most."""
        with self._lock:
            if self._process.poll() is None or self._stopping or self._starts > _MOST_STARTS:
                return
            logger.warning("the Prefect server of this run has ended; it is started again")
            with contextlib.suppress(OSError):  # somebody else has the port: it is tried again
                self._listener = listening(urlsplit(self.server.url).port or 0)
                self._start()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stopping = True
        if self._process.poll() is None:
            _send_the_rest()
        stop([self._process], _STOP_S)

    def _start(self) -> None:
        self._starts += 1
        handle = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode=0o600)
        with os.fdopen(handle, "ab") as output, self._listener as listener:
            # As a file, so that it is found without a path for modules.
            file = Path(__file__).with_name("guarded_server.py")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(file), "--fd", str(listener.fileno())],
                pass_fds=[listener.fileno()],
                env={
                    **os.environ,
                    **closed(self.server),
                    # Without its dashboard, and without what only a lasting server needs.
                    "PREFECT_SERVER_UI_ENABLED": "false",
                    "PREFECT__SERVER_EPHEMERAL": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # No file of the folder that the command was given in is read.
                cwd=self._log.parent,
                start_new_session=True,
            )


def _send_the_rest() -> None:
    """Send what Prefect still has in its queues: the last states and log lines."""
    # One that was interrupted while it was imported has nothing to send.
    for module, name in (
        ("prefect.events.worker", "EventsWorker"),
        ("prefect.logging.handlers", "APILogWorker"),
    ):
        if service := getattr(sys.modules.get(module), name, None):
            service.drain_all(timeout=_STOP_S)


def new_secret() -> str:
    """A secret in the form that Prefect wants: "user:password"."""
    return f"synth:{secrets.token_urlsafe(24)}"
