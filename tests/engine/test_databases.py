"""PostgreSQL, Redis and the server are killed and started again in the middle of a study."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.stack import Stack, end, ended, free_port
from tests.engine.study_files import write_study

# Debian keeps them off the path; the newest is taken (15 on Debian 12).
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))

pytestmark = pytest.mark.skipif(
    not POSTGRES or shutil.which("redis-server") is None,
    reason="needs Debian's packages postgresql and redis-server: make databases",
)


class Databases:
    """A PostgreSQL and a Redis of our own, on the loopback interface."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"postgres": free_port(), "redis": free_port()}
        self.running: dict[str, subprocess.Popen] = {}
        self.user = {"user": "postgres"} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(folder, "postgres")

    @property
    def settings(self) -> dict[str, str]:
        redis = f"redis://127.0.0.1:{self.ports['redis']}"
        database = f"postgresql+asyncpg://prefect@127.0.0.1:{self.ports['postgres']}/postgres"
        return {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_REDIS_MESSAGING_URL": f"{redis}/0",
            "PREFECT_SERVER_DOCKET_URL": f"{redis}/1",
        }

    def start(self, name: str) -> None:
        port = str(self.ports[name])
        if name == "postgres":
            place = self.folder / "data"
            if not place.exists():
                self._initialise(place)
            words = [str(POSTGRES[-1] / "postgres"), "-D", str(place), "-p", port]
            words += ["-k", str(self.folder), "-c", "listen_addresses=127.0.0.1"]
            ask = ["pg_isready", "-h", "127.0.0.1", "-p", port]
        else:
            words = ["redis-server", "--bind", "127.0.0.1", "--port", port]
            words += ["--dir", str(self.folder), "--appendonly", "yes"]
            ask = ["redis-cli", "-p", port, "ping"]
        with (self.folder.parent / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                words, stdout=log, stderr=log, cwd=self.folder, **self.user
            )
        deadline_s = time.monotonic() + 60
        while subprocess.run(ask, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline_s, f"{name} does not start"
            time.sleep(0.2)

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        # PostgreSQL's immediate shutdown: as after a power failure, but for shared memory.
        process.send_signal(signal.SIGQUIT if name == "postgres" else signal.SIGKILL)
        process.wait(30)

    def _initialise(self, place: Path) -> None:
        words = [str(POSTGRES[-1] / "initdb"), "-D", str(place), "-U", "prefect", "--auth=trust"]
        subprocess.run(words, check=True, capture_output=True, cwd=self.folder, **self.user)


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    # Not under pytest's folder, which nobody but us may enter, and PostgreSQL is not root.
    with tempfile.TemporaryDirectory(prefix="engine-databases-") as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "databases"
        folder.mkdir()
        databases = Databases(folder)
        try:
            for name in ("postgres", "redis"):
                databases.start(name)
            yield databases
        finally:
            for process in databases.running.values():
                end(process)


def test_each_of_them_is_started_again(databases, tmp_path):
    stack = Stack(tmp_path / "stack", more=databases.settings)
    try:
        stack.start_server()
        stack.furnish()
        for name in ("one", "two"):
            stack.start_worker(name, STAND_IN_WAIT_S="3")
        study = stack.start_study(write_study(tmp_path, "shaken", 10), "--until", "sampling")
        for done, name in ((1, "postgres"), (3, "redis"), (5, "server")):
            _wait_for_samples(stack, study, done)
            if name == "server":
                stack.server.kill()
                stack.server.wait()
            else:
                databases.stop(name)
            time.sleep(3)
            if name == "server":
                stack.start_server()
            else:
                databases.start(name)
        ending = ended(study, 400)
        assert ending.code == 0, ending.err
        lines = stack.executed()
        assert not any(line["published"] for line in lines)
        ends = {(line["stage"], line["label"]) for line in lines if line["what"] == "end"}
        assert len(ends) == 10 * 3
        assert not list(stack.root.glob("studies/shaken/.runs/*"))
    finally:
        stack.stop_workers()
        stack.stop_server()


def _wait_for_samples(stack: Stack, study: subprocess.Popen, count: int) -> None:
    deadline_s = time.monotonic() + 200
    while True:
        made = {line["label"] for line in stack.executed() if line["stage"] == "sampling"}
        if len(made) >= count:
            return
        assert study.poll() is None, study.communicate()
        assert time.monotonic() < deadline_s, stack.log("server")
        time.sleep(0.2)
