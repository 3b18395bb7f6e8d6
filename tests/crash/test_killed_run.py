"""A run that is killed in the middle: nothing half-made is taken for whole, and it goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.command_line import ROOT, command


def processes_of(root: Path) -> list[int]:
    """Ids of the processes whose environment or command names the study's root."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                told = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it ended, or is somebody else's
            if str(root).encode() in told:
                found.append(int(folder.name))
    return found


def test_a_killed_run_goes_on_where_it_stopped(finished, tmp_path):
    root = tmp_path / "root"
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run", finished.config, "--root", root],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 120
        # The second class is being fine-tuned: one is finished, one is half-made.
        while len(list(root.glob("store/dreambooth/[!.]*"))) < 1 or not list(
            root.glob("store/*/.new-*")
        ):
            assert run.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert list(root.glob("store/*/.new-*")), "the kill came too late to show anything"
    whole = {path.parent for path in root.glob("store/*/[!.]*/manifest.json")}
    assert whole
    deadline = time.monotonic() + 30
    while processes_of(root):
        assert time.monotonic() < deadline, "the temporary server outlived its run"
        time.sleep(0.2)
    times = {path: path.stat().st_mtime_ns for folder in whole for path in folder.rglob("*")}
    again = command("run", finished.config, "--root", root)
    assert again.code == 0, again.err
    assert "half-made" in again.err
    assert not list(root.glob("store/*/.new-*"))
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    # What it made is what an undisturbed run made.
    for stage in ("sampling", "selection", "scores", "report"):
        ours, theirs = (
            sorted(path.name for path in (place / "store" / stage).glob("[!.]*"))
            for place in (root, finished.root)
        )
        assert ours == theirs
