"""`synth-pipeline up`: a server, its pools, deployments and automations, and workers, all here.

Everything listens on the loopback interface only, wants a secret, and is stopped by Ctrl-C; after
`kill -9` a small process stops it (flows/orphans.py).
"""

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from flows import own_server
from flows.cards import Card, cards, shared_out
from flows.server import CPU_POOL, GPU_POOL, Server, server_file
from synth_pipeline.errors import InputError, StageError
from synth_pipeline.private_root import make_private
from synth_pipeline.shipped import AUTOMATIONS, PREFECT_YAML
from synth_pipeline.store import write_in_one_step

#: Where our packages are imported from.
HOME = Path(__file__).parent.parent
_PORT = 4200
#: Together less than the whole command has to end (flows/interrupts.py).
_WORKERS_STOP_S, _SERVER_STOP_S = 3.0, 1.5
#: A worker that ends by itself is started again, but not in a circle.
_RESTART_S = 5.0


@dataclass
class Child:
    """A process of the stack.

    Attributes:
        name: what people are shown, and the log's name.
        arguments: after `python -m`.
        more: of its environment.
    """

    name: str
    arguments: tuple[str, ...]
    more: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0

    def start(self, logs: Path) -> None:
        """Start it in a session of its own: Ctrl-C comes to us, and we stop it in order."""
        with self._log(logs) as log:
            self.process = subprocess.Popen(
                # No module of the folder that the command was given in is imported.
                [sys.executable, "-P", "-m", *self.arguments],
                env={**os.environ, **self.more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # No settings of others lie there, which Prefect would read.
                cwd=logs.parent,
                start_new_session=True,
            )
        self.started_s = time.monotonic()

    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.process is None or self.process.poll() is not None

    def _log(self, logs: Path) -> IO[bytes]:
        handle = os.open(
            logs / f"{self.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode=0o600
        )
        return os.fdopen(handle, "ab")


def bring_up(root: Path, workers: int | None, slots: int) -> int:
    """Start the stack and keep it up until Ctrl-C; returns the exit code.

    Args:
        root: whose studies are run; the database and the logs lie there, too.
        workers: of the pool gpu; none for one on each GPU, or one without GPUs.
        slots: classes that each worker makes at a time.

    Raises:
        InputError: it runs already, the GPUs do not hold so many, or the package is not whole.
        StageError: the server does not start.
    """
    from flows.environment import prepare
    from flows.locking import only_one_stack
    from flows.orphans import end_the_rest, ended_with_us
    from flows.root_folder import check_root, open_root
    from flows.run_history import set_aside_if_unusable
    from flows.surroundings import check_proxies, import_prefect

    check_proxies()
    _check_deployments()
    root = root.absolute()
    check_root(root)
    found = cards()
    places = shared_out(found, workers, slots)
    with only_one_stack(root), ended_with_us() as mark:
        open_root(root)
        # What a killed stack left says nothing about this one.
        server_file(root).unlink(missing_ok=True)
        set_aside_if_unusable(root / "prefect")
        server = Server(f"http://127.0.0.1:{_free_port()}/api", _secret(root))
        prepare(root, server)
        _set_the_rest(server, root)
        logs = root / "prefect" / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        children = [_server_child(server)]
        try:
            children[0].start(logs)
            assert children[0].process is not None
            own_server.wait_until_it_answers(server, children[0].process, logs / "server.log")
            # It copies its pages with the modes that they have in the package.
            make_private(root)
            # Only its owner reads such a file, from its first byte on.
            told = {"url": server.url, "secret": server.secret}
            write_in_one_step(server_file(root), json.dumps(told).encode())
            import_prefect(root / "prefect")
            _furnish(root)
            children += _worker_children(places, slots)
            for child in children[1:]:
                child.start(logs)
            with contextlib.suppress(KeyboardInterrupt):
                _tell(server, root, places, slots)
                _keep_up(children, logs)
            print("\nstopping ...", flush=True)
        finally:
            server_file(root).unlink(missing_ok=True)
            # The server goes last, so that the workers can tell it how their runs ended.
            for group, patience_s in (
                (children[1:], _WORKERS_STOP_S),
                (children[:1], _SERVER_STOP_S),
            ):
                own_server.stop([c.process for c in group if c.process], patience_s)
            end_the_rest(mark)
    return 0


def _check_deployments() -> None:
    """Find out before anything is started whether the package is whole."""
    for path in (PREFECT_YAML, AUTOMATIONS):
        if not path.is_file():
            raise InputError(f"{path} is missing; install synth-pipeline again.")


def _server_child(server: Server) -> Child:
    port = server.url.rsplit(":", 1)[1].removesuffix("/api")
    return Child("server", ("flows.guarded_server", "--host", "127.0.0.1", "--port", port))


def _set_the_rest(server: Server, root: Path) -> None:
    """The settings of the server, which its workers also see but do not use, and theirs."""
    os.environ.update(
        own_server.closed(server),
        PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT="false",
        # By default the dashboard's files are written into the installed package.
        PREFECT_SERVER_UI_STATIC_DIRECTORY=str(root / "prefect" / "dashboard"),
        PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="INFO",
        SYNTH_PIPELINE_ROOT=str(root),
        # A worker looks for work every two seconds; by default it is ten.
        PREFECT_WORKER_QUERY_SECONDS="2",
        # The workers run in folders of their own, and must find this very package.
        PYTHONPATH=os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH")))),
    )


def _furnish(root: Path) -> None:
    """Pools, deployments and automations; what is there is brought up to date."""
    from flows.furnishing import furnish

    furnish()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"]
        + ["--prefect-file", str(PREFECT_YAML)],
        cwd=root / "prefect",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        told = own_server.last_line(done.stderr or done.stdout)
        raise StageError(f"`prefect deploy --all` failed: {told}")


def worker_arguments(pool: str, name: str, limit: int) -> tuple[str, ...]:
    """What starts a worker, after `python -m`; it takes `limit` runs at a time."""
    chosen = ("--pool", pool, "--type", "process", "--name", name, "--limit", str(limit))
    return ("prefect", "worker", "start", *chosen)


def _worker_children(places: list[Card | None], slots: int) -> list[Child]:
    def worker(pool: str, name: str, limit: int, more: dict[str, str]) -> Child:
        return Child(f"worker-{name}", worker_arguments(pool, name, limit), more)

    host = socket.gethostname()
    found = [
        worker(
            GPU_POOL,
            f"{host}-gpu-{number}",
            slots,
            {} if card is None else {"CUDA_VISIBLE_DEVICES": card.name},
        )
        for number, card in enumerate(places, start=1)
    ]
    # Studies wait there, and new cases are looked at: four may do so at a time.
    return [*found, worker(CPU_POOL, f"{host}-cpu", 4, {})]


def _tell(server: Server, root: Path, places: list[Card | None], slots: int) -> None:
    secret_file = root / "prefect" / "secret"
    where = "a GPU each" if places[0] is not None else "without a GPU"
    print(
        f"Dashboard: {server.url.removesuffix('/api')} (log in with the line in {secret_file})\n"
        f"{len(places)} workers, {where}, {slots} at a time each; logs in {root}/prefect/logs\n"
        f"Run a study: synth-pipeline run CONFIG --engine workers --root {shlex.quote(str(root))}\n"
        "Stop everything: Ctrl-C",
        flush=True,
    )


def _keep_up(children: list[Child], logs: Path) -> None:
    while True:
        time.sleep(0.5)
        for child in children:
            if child.ended() and time.monotonic() - child.started_s > _RESTART_S:
                print(f"{child.name} ended; it is started again", flush=True)
                child.start(logs)


def _free_port() -> int:
    """4200, which Prefect's people know, or any that is free."""
    for port in (_PORT, 0):
        with contextlib.suppress(OSError), own_server.listening(port) as listener:
            return listener.getsockname()[1]
    raise InputError("No port is free on 127.0.0.1.")


def _secret(root: Path) -> str:
    """The secret of this root, made at the first start and kept for the next.

    A file that holds none, such as an empty one, is written anew: a server without a secret would
    answer everybody on this machine.
    """
    path = root / "prefect" / "secret"
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        kept = path.read_text().strip()
        if re.fullmatch(r"[^:\s]+:\S+", kept):
            return kept
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = own_server.new_secret()
    write_in_one_step(path, f"{secret}\n".encode())
    return secret
