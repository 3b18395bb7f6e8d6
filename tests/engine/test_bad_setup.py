"""What can be wrong with a server, its workers and their machines: found, said in a sentence."""

import time
from pathlib import Path

import httpx
import pytest

from flows.server_checks import check_server
from tests.command_line import Ended
from tests.engine.stack import ended, marked
from tests.engine.study_files import write_study

UNTIL = ("--until", "sampling")


def one_sentence(done: Ended) -> str:
    assert done.code == 2, done.out + done.err
    assert len(done.err.splitlines()) == 1, done.err
    assert "Traceback" not in done.err
    return done.err


def test_a_wrong_secret(stack, tmp_path):
    config = write_study(tmp_path, "secret", 2)
    done = stack.run_study(config, *UNTIL, PREFECT_API_AUTH_STRING="synth:wrong")
    assert "refuses the secret" in one_sentence(done)
    assert not (stack.root / "studies" / "secret").exists()


def test_nobody_gets_in_without_the_secret(stack):
    for method, path in (
        ("GET", "/work_pools/gpu"),
        ("POST", "/flow_runs/filter"),
        ("POST", "/deployments/filter"),
        ("POST", "/automations/filter"),
        ("GET", "/csrf-token?client=x"),
    ):
        reply = httpx.request(method, stack.api.url + path, json={} if method == "POST" else None)
        # A change is asked for its CSRF token first, which nobody gets without the secret.
        assert reply.status_code in (401, 403), path
    assert httpx.get(f"{stack.api.url}/csrf-token?client=x").status_code == 401


def test_a_change_without_a_token_is_refused(stack):
    login = tuple(stack.secret.split(":"))
    reply = httpx.post(f"{stack.api.url}/variables/", auth=login, json={"name": "a", "value": 1})
    assert reply.status_code == 403
    assert "CSRF" in reply.text


def test_a_deployment_of_another_version(stack, tmp_path):
    config = write_study(tmp_path, "version", 2)
    path = stack.folder / "prefect.yaml"
    text = path.read_text()
    path.write_text(text.replace("0.1.0", "0.0.9"))
    stack.deploy()
    try:
        told = one_sentence(stack.run_study(config, *UNTIL))
        assert "is of version 0.0.9, but 0.1.0 is installed here" in told
        assert "prefect deploy --all" in told
    finally:
        path.write_text(text)
        stack.deploy()


def test_no_worker_takes_anything(stack, tmp_path):
    """It is said, with the command; and when one comes, the study goes on."""
    config = write_study(tmp_path, "lonely", 2)
    study = stack.start_study(config, *UNTIL)
    log = ""
    while "no worker takes work" not in log:
        line = study.stderr.readline()
        assert line, log
        log += line
    assert "prefect worker start --pool gpu" in log
    stack.start_worker("late")
    done = ended(study)
    stack.stop_workers()
    assert done.code == 0, log + done.err


@pytest.mark.slow
def test_a_store_that_is_not_shared(stack, tmp_path):
    """A worker that sees another folder is found before it works; another one does the work."""
    config = write_study(tmp_path, "apart", 2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    stack.start_worker("apart", SYNTH_PIPELINE_ROOT=str(elsewhere))
    done = stack.run_study(config, *UNTIL)
    stack.stop_workers()
    assert done.code == 3, done.err
    assert "does not see the study's folder" in done.err
    assert "SYNTH_PIPELINE_ROOT" in done.err
    assert not list(elsewhere.iterdir())


def test_a_full_disk_on_one_worker(stack, tmp_path):
    config = write_study(tmp_path, "full", 3)
    stack.start_worker("full", STAND_IN_FULL_DISK="yes")
    study = stack.start_study(config, *UNTIL)
    log = ""
    while "failed (" not in log:
        line = study.stderr.readline()
        assert line, log
        log += line
    assert "No space left on device" in log
    # Whoever has room takes over.
    stack.start_worker("roomy")
    stack.kill_worker("full")
    done = ended(study)
    stack.stop_workers()
    assert done.code == 0, log + done.err


@pytest.mark.slow
def test_a_class_that_fails_is_reported_while_the_others_finish(stack, tmp_path):
    config = write_study(tmp_path, "fails", 4)
    known = len(stack.executed())
    stack.start_worker("unlucky", limit=2, STAND_IN_FAILS="class-001", STAND_IN_NO_FACE="class-002")
    done = stack.run_study(config, *UNTIL)
    stack.stop_workers()
    assert done.code == 3, done.err
    assert "class class-001: " in done.err
    assert "class class-002: class-002 real shows no face" in done.err
    begun = [
        (line["stage"], line["label"])
        for line in stack.executed()[known:]
        if line["what"] == "begin"
    ]
    assert begun.count(("sampling", "class-001")) >= 3
    assert begun.count(("landmarks", "class-002 real")) == 1
    for label in ("class-000", "class-003"):
        assert ("sampling", label) in begun


def listening() -> dict[int, str]:
    """Inode of each socket that listens for TCP, to the address in /proc's notation."""
    found = {}
    for table in ("tcp", "tcp6"):
        with Path(f"/proc/net/{table}").open() as lines:
            for line in list(lines)[1:]:
                parts = line.split()
                if parts[3] == "0A":
                    found[int(parts[9])] = parts[1].split(":")[0]
    return found


def test_nothing_listens_but_on_the_loopback(stack):
    stack.start_worker("quiet")
    time.sleep(5)
    sockets = listening()
    ours = set()
    for pid in marked(f"PREFECT_API_URL={stack.api.url}"):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(handle.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inode = int(target[8:-1])
                if inode in sockets:
                    ours.add(sockets[inode])
    stack.stop_workers()
    # 127.0.0.1 and ::1, in the kernel's order of bytes.
    assert ours
    assert ours <= {"0100007F", "00000000000000000000000001000000"}


def test_doctor_says_what_a_server_lacks(stack, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", stack.api.url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", stack.secret)
    told = {text: good for good, text in check_server(stack.root)}
    assert told["the server refuses who has no secret"]
    assert told["automation crash zombie flows"]
    assert not told["no worker in the pool cpu: prefect worker start --pool cpu"]
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "synth:wrong")
    assert [good for good, _ in check_server(stack.root)] == [False]
