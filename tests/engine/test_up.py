"""`synth-pipeline up`: everything in one command, a study through it, and nothing left of it."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from tests.command_line import ROOT, STUDY
from tests.engine.stack import ended, marked

_START_S = 180


@pytest.fixture
def up(tmp_path):
    """The running command, its root, and what was printed.

    Around it lie a proxy that leads nowhere, and the Prefect settings of another project.
    """
    root = tmp_path / "root"
    clean = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    log = tmp_path / "up.log"
    elsewhere = tmp_path / "another project"
    elsewhere.mkdir()
    (elsewhere / "prefect.toml").write_text('[api]\nurl = "http://127.0.0.1:9/api"\n')
    (elsewhere / "pyproject.toml").write_text("[[[ not even TOML")
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up", "--root", str(root), "--workers", "2"],
            stdout=out,
            stderr=out,
            cwd=elsewhere,
            env=clean
            | dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "socks5h://127.0.0.1:9")
            | {
                "PREFECT_API_URL": "http://127.0.0.1:9/api",
                "PREFECT_API_KEY": "another",
                "PYTHONPATH": str(ROOT),
                "UP_TEST": str(tmp_path),
            },
            start_new_session=True,
        )
    signal.signal(signal.SIGINT, before)
    try:
        deadline_s = time.monotonic() + _START_S
        while "Stop everything" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.5)
        yield process, root, log
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def test_a_study_on_the_command_line_and_one_by_its_deployment(up, phantoms, tmp_path):
    process, root, log = up
    assert "2 workers, without a GPU" in log.read_text()
    server = json.loads((root / "prefect" / "server.json").read_bytes())
    config = tmp_path / "small.yaml"
    config.write_text(STUDY.format(source=phantoms))
    clean = {name: value for name, value in os.environ.items() if "PREFECT" not in name}

    def run(*words: str, **more: str):
        return ended(
            subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=ROOT,
                env=clean | more,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ),
            600,
        )

    first = run("flows.cli", "run", str(config), "--root", str(root), "--engine", "workers")
    assert first.code == 0, first.err
    assert ", 0 cached" in first.out
    assert (root / "studies" / "small" / "report.html").exists()
    deployed = run(
        *("prefect", "deployment", "run", "study/production", "--watch"),
        PREFECT_API_URL=server["url"],
        PREFECT_API_AUTH_STRING=server["secret"],
        PREFECT_HOME=str(tmp_path / "home"),
    )
    assert deployed.code == 0, deployed.out + deployed.err
    assert "Completed" in deployed.out + deployed.err
    found = httpx.post(
        f"{server['url']}/artifacts/filter",
        json={},
        auth=tuple(server["secret"].split(":", 1)),
        headers=_token(server),
    ).json()
    assert {"markdown", "table"} <= {artifact["type"] for artifact in found}
    assert "data:image" not in json.dumps(found)
    # What workers made, too.
    everything = [path for path in (root, *root.rglob("*")) if not path.is_symlink()]
    assert not [path for path in everything if path.stat().st_mode & 0o077]
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0, log.read_text()
    assert not (root / "prefect" / "server.json").exists()
    assert not marked(f"UP_TEST={tmp_path}")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server['url']}/health")


def _token(server: dict[str, str]) -> dict[str, str]:
    """What the server wants to see of whoever posts something."""
    auth = tuple(server["secret"].split(":", 1))
    reply = httpx.get(f"{server['url']}/csrf-token", params={"client": "test"}, auth=auth)
    return {"Prefect-Csrf-Token": reply.json()["token"], "Prefect-Csrf-Client": "test"}
