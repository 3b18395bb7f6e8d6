"""A new photo in the inbox, on a real server: event, automation and study happen by themselves."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.workers.process import ProcessWorker

from synth_pipeline.config import load_config
from synth_pipeline.phantom.dataset import make_dataset
from synth_pipeline.photos import sanitise
from synth_pipeline.registry import Registry
from synth_pipeline.study import Study
from tests.command_line import PATIENT, ROOT, STUDY

_PATIENCE_S = 400


class Server:
    """A Prefect server with a secret, and a process worker, for one root."""

    def __init__(self, home: Path, root: Path) -> None:
        self.home, self.root = home, root
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        self.secret = f"synth:{secrets.token_urlsafe(16)}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if "PREFECT" not in name},
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_API_AUTH_STRING": self.secret,
            "PREFECT_SERVER_API_AUTH_STRING": self.secret,
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            # Schedules are looked at every three seconds; by default it is a minute.
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
            "SYNTH_PIPELINE_ROOT": str(root),
        }
        self.port = port

    def prefect(self, *arguments: str) -> None:
        """Run Prefect's command to its end."""
        subprocess.run(self._line(*arguments), **self._options("cli"), check=True)

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[None]:
        """Keep a command of Prefect's running meanwhile."""
        process = subprocess.Popen(self._line(*arguments), **self._options(arguments[0]))
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, method: str, path: str, content: object = None):
        """Use the API with the secret, and with a CSRF token as the server demands."""
        with httpx.Client(auth=tuple(self.secret.split(":")), timeout=180) as client:
            told = client.get(f"{self.url}/csrf-token", params={"client": "test"}).json()
            headers = {"Prefect-Csrf-Token": told["token"], "Prefect-Csrf-Client": "test"}
            # 503: its database is busy and nothing was written; Prefect's own client tries again.
            deadline_s = time.monotonic() + _PATIENCE_S
            while True:
                reply = client.request(method, self.url + path, json=content, headers=headers)
                if reply.status_code != 503 or time.monotonic() > deadline_s:
                    break
                time.sleep(1)
            reply.raise_for_status()
            return reply.json()

    def wait(self, what, path: str, content: object = None):
        """Ask until `what` takes the answer; returns it."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline_s:
            if what(found := self.ask("POST", path, content or {})):
                return found
            time.sleep(1)
        logs = "\n".join(log.read_text()[-3000:] for log in self.home.glob("*.log"))
        raise AssertionError(f"{path}: {found}\n{logs}")

    def _line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "prefect", *arguments]

    def _options(self, name: str) -> dict:
        log = (self.home / f"{name}.log").open("a")
        return {"env": self.environment, "cwd": ROOT, "stdout": log, "stderr": log}


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    home = tmp_path / "prefect home"
    home.mkdir()
    server = Server(home, tmp_path / "root")
    with server.running("server", "start", "--host", "127.0.0.1", "--port", str(server.port)):
        deadline_s = time.monotonic() + 180
        while time.monotonic() < deadline_s:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{server.url}/health").status_code == 200:
                    break
            time.sleep(0.3)
        for pool in ("cpu", "gpu"):
            template = ProcessWorker.get_default_base_job_template()
            new = {"name": pool, "type": "process", "base_job_template": template}
            server.ask("POST", "/work_pools/", new)
        server.prefect("--no-prompt", "deploy", "--all")
        with server.running("worker", "start", "--pool", "cpu"):
            yield server


@pytest.fixture
def study(finished, tmp_path) -> Study:
    """The finished study, its cases in a registry, on the same sides: all but they is cached."""
    root, inbox = tmp_path / "root", tmp_path / "inbox"
    shutil.copytree(finished.root / "store", root / "store")
    folder = root / "studies" / "small"
    shutil.copytree(finished.root / "studies" / "small" / "history", folder / "history")
    inbox.mkdir()
    text = STUDY.format(source="''").replace("format: csv", f"format: registry\n  inbox: {inbox}")
    (folder / "config.resolved.yaml").write_text(text)
    before = Study(load_config(finished.config), finished.root)
    before.make(before.cases())
    registry = Registry(root / "registry")
    with registry.locked():
        for case in sorted(before.case_set.cases, key=lambda case: case.split, reverse=True):
            registry.add(
                sanitise(case.path).image,
                class_name=case.class_name,
                subject=None,
                arrival=case.case_id,
                seed=0,
                # All of the newcomers are held out, or none, so the sides are as they were; the
                # training photos come first.
                fraction=1.0 if case.split == "test" else 0.0,
            )
    assert {(e.case_id, e.subject_id, e.split) for e in registry.entries} == {
        (c.case_id, c.subject_id, c.split) for c in before.case_set.cases
    }
    registry.announced(len(registry.entries))
    return Study(load_config(folder / "config.resolved.yaml"), root)


def drop(inbox: Path, class_name: str, landmark_model: Path, scratch: Path) -> None:
    """A new face and a broken one into a class's folder, under a patient's name."""
    make_dataset(
        scratch, classes=1, per_class=1, test_per_class=0, size_px=128, seed=77,
        mesh_path=landmark_model,
    )  # fmt: skip
    (face,) = scratch.rglob("*.png")
    folder = inbox / class_name
    folder.mkdir()
    shutil.copy(face, folder / f"{PATIENT}.png")
    (folder / f"{PATIENT} cut short.png").write_bytes(face.read_bytes()[:2000])


def test_a_new_photo_starts_the_study_and_touches_one_class(
    server, study, landmark_model, tmp_path
):
    touched, *others = study.expected_classes()
    name = next(e.class_name for e in study.registry.entries if e.class_id == touched)
    inbox = tmp_path / "inbox"
    drop(inbox, name, landmark_model, tmp_path / "scratch")

    # A schedule as the deployment has one, but for nights of half a minute.
    nightly = server.ask("GET", "/deployments/name/ingest-cases/nightly")
    assert [each["schedule"]["cron"] for each in nightly["schedules"]] == ["0 2 * * *"]
    often = {
        "active": True,
        "schedule": {"interval": 30},
        "parameters": {"name": "small", "settle_s": 0.5},
    }
    server.ask("POST", f"/deployments/{nightly['id']}/schedules", [often])

    production = server.ask("GET", "/deployments/name/study/production")
    of_the_study = {"flow_runs": {"deployment_id": {"any_": [production["id"]]}}}
    (run,) = server.wait(
        lambda runs: runs and runs[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED"),
        "/flow_runs/filter",
        of_the_study,
    )
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["created_by"]["type"] == "AUTOMATION"

    # The event says which classes, how many, and nothing else.
    events = server.ask(
        "POST", "/events/filter", {"filter": {"event": {"name": ["synth-pipeline.cases.arrived"]}}}
    )["events"]
    assert [event["payload"] for event in events] == [{"classes": {touched: 1}}]
    assert events[0]["resource"]["prefect.resource.id"] == "synth-pipeline.study.small"

    # One class was made again; of the others everything was found.
    tasks = task_states(server, run["id"])
    for stage in ("dreambooth {}", "sampling {}", "landmarks {} real", "landmarks {} synthetic"):
        assert tasks[stage.format(touched)] == "Completed"
        assert {tasks[stage.format(other)] for other in others} == {"Cached"}
    assert tasks["cases"] == "Completed"

    # The broken one waits, with its reason, and the inbox is empty.
    (held,) = (study.root / "quarantine" / "files").iterdir()
    assert held.stat().st_size == 2000
    checked = subprocess.run(
        [sys.executable, "-m", "flows.cli", "cases", "check",
         study.folder / "config.resolved.yaml", "--root", study.root],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 2
    assert "cut short.png: is damaged or cut short" in checked.stdout
    assert not [path for path in inbox.rglob("*") if path.is_file()]

    # What the recognisers gained is reported against the study before.
    page = (study.folder / "report.html").read_text()
    assert "Since the last study" in page
    assert f"{touched} (training 4 → 5, held-out 2 → 2)" in page

    # No one learns who was photographed, nor where the photos came in.
    for path in [*server.home.rglob("*"), *study.folder.rglob("*.html")]:
        if path.is_file():
            content = path.read_bytes()
            assert PATIENT.encode() not in content, path
            assert str(inbox).encode() not in content, path
    stranger = httpx.get(f"{server.url}/deployments/name/study/production", timeout=180)
    assert stranger.status_code == 401


def task_states(server: Server, run_id: str) -> dict[str, str]:
    """Name to state of every task of a run and of the flows that it called."""
    found, parents = {}, [run_id]
    while parents:
        some = {"flow_runs": {"id": {"any_": parents}}}
        tasks = server.ask("POST", "/task_runs/filter", {**some, "limit": 200})
        found |= {task["name"]: task["state_name"] for task in tasks}
        children = {"flow_runs": {"parent_flow_run_id": {"any_": parents}}}
        parents = [flow["id"] for flow in server.ask("POST", "/flow_runs/filter", children)]
    return found
