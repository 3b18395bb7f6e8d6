"""Ctrl-C on a terminal, and a polite `kill`: the command ends in order, with one sentence."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import ROOT
from tests.engine.stack import marked
from tests.terminal import CTRL_C, in_terminal

#: Not what is promised, which is ten seconds; a busy machine may take longer.
_PATIENCE_S = 40.0
KEPT = "synth-pipeline: stopped; what is finished is kept, and the same command goes on from there."
#: A stage, how it is interrupted, and the exit code.
STAGES = {
    "cases": ("typed", 130),
    "dreambooth": ("typed twice", 130),
    "sampling": ("killed", 143),
    "training": ("typed twice", 130),
    "report": ("typed", 130),
}


def interrupted(
    words: list[str | Path], place: Path, when: Callable[[], bool], how: str = "typed twice"
) -> tuple[int, list[str]]:
    """Run a command in a terminal and interrupt it; its exit code, and the lines shown after."""
    mark = f"INTERRUPTED={place}"
    moment_s = 0.0

    def act(terminal: int, pid: int) -> bool:
        nonlocal moment_s
        if not when():
            return False
        moment_s = time.monotonic()
        if how == "killed":
            os.kill(pid, signal.SIGTERM)
        else:
            os.write(terminal, CTRL_C * (2 if how == "typed twice" else 1))
        return True

    done = in_terminal(
        [sys.executable, "-m", "flows.cli", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "INTERRUPTED": str(place)},
        limit_s=300,
        act=act,
    )
    assert moment_s, f"it ended before it could be interrupted: {done.out}"
    assert time.monotonic() - moment_s < _PATIENCE_S, done.out
    # What has nothing to lose, such as a face worker, ends itself when its pipe closes.
    deadline_s = time.monotonic() + 5
    while (left := marked(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not left, "something is left running"
    assert "Traceback" not in done.out and "Error" not in done.out, done.out
    lines = [line for line in done.out.replace("^C", "").splitlines() if line.strip()]
    return done.code, lines


def test_at_every_stage_nothing_is_lost_and_nothing_is_left(finished, tmp_path):
    """One root, whose later stages are taken away before each go: it stops where it is told to."""
    root = tmp_path / "root"
    shutil.copytree(finished.root, root, ignore=shutil.ignore_patterns("prefect"))
    for stage, (how, code) in reversed(STAGES.items()):
        shutil.rmtree(root / "store" / stage)
        kept = sorted(root.glob("store/*/[!.]*/manifest.json"))

        def half_made(stage: str = stage) -> bool:
            return any(root.glob(f"store/{stage}/.new-*"))

        words = ["run", finished.config, "--root", root]
        assert interrupted(words, tmp_path, half_made, how)[0] == code, stage
        assert sorted(root.glob("store/*/[!.]*/manifest.json")) == kept, stage
        assert not list(root.glob("store/*/.new-*")), stage


def test_while_prefect_is_imported_and_its_server_starts(finished, tmp_path):
    root = tmp_path / "root"
    laid_down = root / "studies" / "small" / "config.resolved.yaml"
    words = ["run", finished.config, "--root", root]
    code, lines = interrupted(words, tmp_path, laid_down.exists)
    assert (code, lines) == (130, [KEPT])


def test_a_server_that_was_just_being_started_ends_too(tmp_path):
    """The interruption comes when its process exists, and before anybody has noted that."""
    program = """
import subprocess, sys
from pathlib import Path
from flows.orphans import ended_with_us
from flows.own_server import OwnServer

class Interrupted(subprocess.Popen):
    def __init__(self, line, **more):
        super().__init__(line, **more)
        if "--fd" in line:
            raise KeyboardInterrupt

subprocess.Popen = Interrupted
with ended_with_us():
    OwnServer(Path(sys.argv[1])).__enter__()
"""
    mark = f"INTERRUPTED={tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=ROOT,
        env={**os.environ, "INTERRUPTED": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.endswith("KeyboardInterrupt\n"), done.stderr
    assert (tmp_path / "prefect" / "logs" / "inline-server.log").exists()
    assert not marked(mark)


def test_a_folder_of_phantoms_is_made_whole_or_not_at_all(tmp_path):
    place = tmp_path / "place"
    place.mkdir()

    def half_made() -> bool:
        return any(place.rglob("*.png"))

    code, lines = interrupted(["phantom", "make", place / "made"], tmp_path, half_made)
    assert code == 130
    assert lines[-1].endswith("nothing half-made is kept, and the same command begins again.")
    assert not list(place.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_library_that_swallows_it_does_not_keep_the_process(number):
    """In the worst case a thread ends it, with the sentence and the code all the same."""
    program = """
import contextlib, os, signal, sys, threading
from flows import interrupts
# What starts the tests may ignore it (nohup), and a child inherits that.
signal.signal(int(sys.argv[1]), signal.SIG_DFL)
interrupts.PATIENCE_S = 0.2
with interrupts.interrupts(lambda text: print(text, flush=True), "last words"):
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), int(sys.argv[1]))
    threading.Event().wait(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (128 + number, "last words\n"), done.stderr
