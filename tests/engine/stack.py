"""A real Prefect server with real workers, whose deployments are stand-ins for the long stages."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from flows.server import Server
from flows.up import worker_arguments
from tests.command_line import ROOT, Ended

_PATIENCE_S = 180.0
#: As in tests/engine/stand_in.py, which must not be imported here: it is Prefect's process.
LOG = "executed.jsonl"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Stack:
    """A server, and as many workers as are asked for, for one root.

    Attributes:
        folder: for logs, the database and the root.
        more: of the server's environment, such as another database.
    """

    folder: Path
    more: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    secret: str = field(default_factory=lambda: f"synth:{secrets.token_urlsafe(12)}")
    workers: dict[str, subprocess.Popen] = field(default_factory=dict)
    server: subprocess.Popen | None = None

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def api(self) -> Server:
        return Server(f"http://127.0.0.1:{self.port}/api", self.secret)

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
        return {
            **clean,
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_API_URL": self.api.url,
            "PREFECT_API_AUTH_STRING": self.secret,
            "PREFECT_SERVER_API_AUTH_STRING": self.secret,
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLIENT_MAX_RETRIES": "8",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
            **more,
        }

    def start_server(self) -> None:
        arguments = ("flows.guarded_server", "--host", "127.0.0.1", "--port", str(self.port))
        self.server = self._start("server", arguments, self.environment(**self.more))
        deadline_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.api.url}/health", timeout=5).status_code == 200:
                    return
            assert self.server.poll() is None, self.log("server")
            time.sleep(0.2)
        raise AssertionError(self.log("server"))

    def stop_server(self) -> None:
        if self.server is not None:
            end(self.server)

    def furnish(self) -> None:
        """Pools and automations as `up` makes them; our deployments with stand-in entry points."""
        code = "from flows.furnishing import furnish; furnish()"
        self._do([sys.executable, "-c", code])
        wanted = yaml.safe_load((ROOT / "prefect.yaml").read_text())
        wanted["deployments"] = [
            one | {"entrypoint": f"tests.engine.stand_in.{one['entrypoint'].rpartition('.')[2]}"}
            for one in wanted["deployments"]
        ]
        (self.folder / "prefect.yaml").write_text(yaml.safe_dump(wanted))
        self.deploy()

    def deploy(self) -> None:
        """What stands in the folder's prefect.yaml."""
        self._do(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
            + ["--prefect-file", str(self.folder / "prefect.yaml")]
        )

    def start_worker(self, name: str, pool: str = "gpu", limit: int = 1, **more: str) -> None:
        environment = self.environment(STAND_IN_WORKER=name, **more)
        process = self._start(name, worker_arguments(pool, name, limit), environment)
        self.workers[name] = process

    def kill_worker(self, name: str) -> None:
        """SIGKILL to the worker and to every run that it has started, at one moment."""
        self.workers.pop(name)
        for pid in marked(f"STAND_IN_WORKER={name}", f"PREFECT_API_URL={self.api.url}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop_worker(self, name: str) -> None:
        end(self.workers.pop(name))

    def stop_workers(self) -> None:
        for process in self.workers.values():
            process.terminate()
        for process in self.workers.values():
            end(process)
        self.workers.clear()

    def start_study(self, config: Path, *arguments: str, **more: str) -> subprocess.Popen:
        environment = self.environment(**more)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.engine.stand_in", "run", str(config)]
            + ["--root", str(self.root), "--engine", "workers", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_study(self, config: Path, *arguments: str, **more: str) -> Ended:
        return ended(self.start_study(config, *arguments, **more))

    def executed(self) -> list[dict[str, Any]]:
        """What the bodies have written down."""
        path = self.root / LOG
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def _start(
        self, name: str, arguments: tuple[str, ...], environment: dict[str, str]
    ) -> subprocess.Popen:
        self.folder.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _do(self, line: list[str]) -> None:
        done = subprocess.run(
            line, cwd=ROOT, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def ended(process: subprocess.Popen, patience_s: float = _PATIENCE_S) -> Ended:
    try:
        out, err = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it did not end: {out}{err}") from None
    return Ended(process.returncode, out, err)


def end(process: subprocess.Popen) -> None:
    """Ask it to end; after a while it is killed."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def marked(*marks: str) -> list[int]:
    """Processes whose environment has all of these entries."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                told = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended, or is somebody else's
            if all(mark.encode() in told for mark in marks):
                found.append(int(folder.name))
    return found
