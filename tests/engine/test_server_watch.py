"""A server that is gone is told of in one line, and waited for; not for ever."""

import logging
import os
import subprocess
import sys
import time

import pytest

from flows import own_server, server_watch
from tests.command_line import ROOT

_GONE = """
import threading
from flows import interrupts, server_watch
from flows.server import Server

server_watch.POLL_S, server_watch.GIVE_UP_S = 0.05, 0.3
with interrupts.interrupts(lambda text: print(text, flush=True), "stopped") as stopped:
    # Nobody listens there, so nobody has to be waited for.
    try:
        with server_watch.watched(Server("http://127.0.0.1:9/api", None)):
            threading.Event().wait(60)
    except KeyboardInterrupt:
        stopped.end_now()
"""


def test_it_is_said_once_and_so_is_its_return(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(server_watch, "POLL_S", 0.5)
    monkeypatch.setattr(server_watch, "SAY_S", 1.0)
    caplog.set_level(logging.INFO, "synth_pipeline")
    with own_server.OwnServer(tmp_path) as own:
        own.ready()
        own._process.kill()
        own._process.wait()
        with server_watch.watched(own.server):
            wait_for(caplog, "does not answer")
            own.revive()
            wait_for(caplog, "answers again")
    told = [message for message in caplog.messages if "answer" in message]
    assert told == [
        f"the Prefect server at {own.server.url} does not answer; waiting for it, up to 10 minutes",
        "the Prefect server answers again",
    ]


def wait_for(caplog, text: str) -> None:
    deadline_s = time.monotonic() + 180
    while not any(text in message for message in caplog.messages):
        assert time.monotonic() < deadline_s, caplog.messages
        time.sleep(0.05)


def test_after_ten_minutes_the_command_ends_with_a_sentence():
    done = subprocess.run(
        [sys.executable, "-c", _GONE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "has not answered for" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not done.stderr


@pytest.mark.parametrize("name", ["prefect._internal", "prefect._internal.concurrency"])
def test_the_threads_of_the_client_do_not_speak_to_the_terminal(tmp_path, name):
    program = f"""
import logging, pathlib
from flows.environment import prepare
prepare(pathlib.Path({str(tmp_path)!r}))
import prefect
logging.getLogger({name!r}).error("Service failed to process item")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "failed to process" not in done.stdout + done.stderr
