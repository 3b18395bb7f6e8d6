"""What compose.yaml starts, started without containers: PostgreSQL, Redis, and the same commands.

The environment and the commands are the file's own; only hosts and ports are those of this machine.
"""

import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.command_line import ROOT
from tests.deploy.test_compose import interpolated

pytestmark = pytest.mark.slow

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, wait_s: float = 120):
    """Ask until it holds; fails with the last error."""
    end_s = time.monotonic() + wait_s
    while True:
        try:
            if found := what():
                return found
        except (OSError, subprocess.CalledProcessError):
            if time.monotonic() > end_s:
                raise
        assert time.monotonic() < end_s, what
        time.sleep(0.2)


class Stack:
    """The services of compose.yaml as processes."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ports = {name: free_port() for name in ("postgres", "redis", "server", "health")}
        self.services = yaml.safe_load(interpolated((ROOT / "compose.yaml").read_text()))[
            "services"
        ]
        self.started: list[subprocess.Popen] = []
        self.url = f"http://127.0.0.1:{self.ports['server']}"

    def environment(self, service: str) -> dict[str, str]:
        hosts = {
            "postgres:5432": f"127.0.0.1:{self.ports['postgres']}",
            "redis:6379": f"127.0.0.1:{self.ports['redis']}",
            "server:4200": f"127.0.0.1:{self.ports['server']}",
            "127.0.0.1:4200": f"127.0.0.1:{self.ports['server']}",
            "/tmp/": f"{self.place}/",
        }
        # In one go: a port of this machine may begin with the digits of another.
        here = re.compile("|".join(map(re.escape, hosts)))
        values = {
            name: here.sub(lambda found: hosts[found[0]], value)
            for name, value in self.services[service]["environment"].items()
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.place), "PYTHONPATH": str(ROOT), **values}

    def command(self, service: str) -> list[str]:
        told = self.services[service]
        words = [*told.get("entrypoint", []), *told["command"]]
        swap = {
            "0.0.0.0": "127.0.0.1",
            "guarded_server.py": str(ROOT / "flows" / "guarded_server.py"),
        }
        words = [swap.get(word, word) for word in words]
        return [*words, "--port", str(self.ports["server"])] if service == "server" else words

    def start(self, name: str, words: list[str], environment: dict[str, str], **more) -> None:
        with (self.place / f"{name}.log").open("wb") as log:
            self.started.append(
                subprocess.Popen(
                    words, env=environment, stdout=log, stderr=log, start_new_session=True, **more
                )
            )

    def start_data(self) -> None:
        """PostgreSQL and Redis, as Debian has them; PostgreSQL refuses to be root's."""
        data, sockets = self.place / "postgres", self.place / "sockets"
        for folder in (data, sockets):
            folder.mkdir()
        user = {}
        if os.geteuid() == 0:
            user = {"user": "postgres"}
            for folder in (data, sockets):
                shutil.chown(folder, "postgres")
        secret = self.place / "secret"
        secret.write_text("database-secret")
        secret.chmod(0o644)
        make = [str(POSTGRES[-1] / "initdb"), "-D", str(data), "-U", "prefect"]
        subprocess.run(
            [*make, "--auth=scram-sha-256", f"--pwfile={secret}"],
            check=True,
            capture_output=True,
            **user,
        )
        port = str(self.ports["postgres"])
        words = [str(POSTGRES[-1] / "postgres"), "-D", str(data), "-p", port]
        words += ["-k", str(sockets), "-c", "listen_addresses=127.0.0.1"]
        self.start("postgres", words, {"PATH": os.environ["PATH"]}, **user)
        redis = self.services["redis"]
        script = redis["command"][-1].replace(
            "requirepass", f"bind 127.0.0.1\\nport {self.ports['redis']}\\nrequirepass"
        )
        (self.place / "redis").mkdir()
        environment = {"PATH": os.environ["PATH"], **redis["environment"]}
        self.start("redis", ["sh", "-c", script], environment, cwd=self.place / "redis")
        create = ["createdb", "-h", "127.0.0.1", "-p", port, "-U", "prefect", "prefect"]
        with_secret = {**os.environ, "PGPASSWORD": "database-secret"}
        until(lambda: subprocess.run(create, env=with_secret, check=True, capture_output=True), 30)
        check = redis["healthcheck"]["test"][1].replace(
            "redis-cli", f"redis-cli -p {self.ports['redis']}"
        )
        until(lambda: subprocess.run(["sh", "-c", check], env=environment, check=True), 30)

    def ask(self, path: str, secret: str | None = None, method: str = "GET") -> int:
        """Status of an answer of the API."""
        request = urllib.request.Request(self.url + path, method=method, data=None)
        if method == "POST":
            request.data = b"{}"
            request.add_header("Content-Type", "application/json")
        if secret:
            request.add_header(
                "Authorization", "Basic " + base64.b64encode(secret.encode()).decode()
            )
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code

    def stop(self) -> None:
        for process in reversed(self.started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def stack(tmp_path_factory):
    if not POSTGRES or not shutil.which("redis-server"):
        pytest.skip("apt-get install postgresql redis-server")
    place = tmp_path_factory.mktemp("stack")
    # PostgreSQL's own user must get through.
    for folder in (place, place.parent, place.parent.parent):
        folder.chmod(0o755)
    made = Stack(place)
    yield made
    made.stop()


def test_the_stack_starts_and_keeps_strangers_out(stack):
    stack.start_data()
    migrated = subprocess.run(
        stack.command("migrate"), env=stack.environment("migrate"), capture_output=True, check=False
    )
    assert migrated.returncode == 0, migrated.stdout + migrated.stderr
    stack.start("server", stack.command("server"), stack.environment("server"))
    stack.start("services", stack.command("services"), stack.environment("services"))
    until(lambda: stack.ask("/api/health") == 200)

    assert stack.ask("/api/admin/version") == 401
    assert stack.ask("/api/admin/version", "admin:wrong") == 401
    assert stack.ask("/api/admin/version", "admin:auth-secret") == 200
    # With the secret, but without a token against forged requests.
    assert stack.ask("/api/work_pools/filter", "admin:auth-secret", method="POST") == 403

    furnished = subprocess.run(
        stack.command("furnish"),
        env=stack.environment("furnish"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert furnished.returncode == 0, furnished.stdout + furnished.stderr
    for name in ("worker-cpu", "worker-gpu-0"):
        port = free_port()
        environment = stack.environment(name)
        environment["PREFECT_WORKER_WEBSERVER_PORT"] = str(port)
        stack.start(name, stack.command(name), environment)
        check = [
            word.replace("8080", str(port)).replace("python", sys.executable, 1)
            if word == "python" or "8080" in word
            else word
            for word in stack.services[name]["healthcheck"]["test"][1:]
        ]
        until(lambda check=check: subprocess.run(check, check=True, capture_output=True), 60)
    listed = subprocess.run(
        ["prefect", "work-pool", "ls"],
        env={**stack.environment("worker-cpu"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "gpu" in listed.stdout and "cpu" in listed.stdout
