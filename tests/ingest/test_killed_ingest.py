"""An ingest that is killed again and again at any moment: the same end, nothing lost or doubled."""

import random
import shutil
import signal
import subprocess
import sys
import time

from tests.command_line import ROOT

_PROGRAM = """
import sys
from pathlib import Path
from synth_pipeline import ingest
from synth_pipeline.inbox import Inbox
from synth_pipeline.quarantine import Quarantine
from synth_pipeline.registry import Registry

print("ready", flush=True)
root = Path(sys.argv[2])
ingest.run(
    Inbox(sys.argv[1]), Registry(root / "registry"), Quarantine(root / "quarantine"),
    seed=1, fraction=0.25, settle_s=0,
)
"""


def start(inbox, root):
    run = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(inbox), str(root)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    return run


def found(desk):
    """What matters of the end: cases with their sides, and files set aside with their reasons."""
    desk.registry.verify()
    cases = [
        (e.case_id, e.class_id, e.subject_id, e.split, e.arrival) for e in desk.registry.entries
    ]
    held = sorted((e.file, e.outcome, e.reason, e.stored) for e in desk.quarantine.held())
    for *_, stored in held:
        assert (desk.quarantine.folder / stored).is_file()
    return cases, held


def test_killed_at_random_moments_it_ends_as_if_it_were_not(desk, tmp_path):
    for number in range(12):
        whole = desk.drop(f"{'abc'[number % 3]}/{number}.png").read_bytes()
    desk.drop("a/broken.png", whole[:700])
    desk.drop("b/again.png", (desk.inbox / "b" / "1.png").read_bytes())
    desk.drop("c/clash.png", (desk.inbox / "a" / "0.png").read_bytes())
    shutil.copytree(desk.inbox, tmp_path / "copy")

    run, begun = start(desk.inbox, desk.root), time.monotonic()
    assert run.wait() == 0
    whole_s = time.monotonic() - begun
    undisturbed = found(desk)
    assert len(undisturbed[0]) == 12
    assert len(undisturbed[1]) == 3

    shutil.rmtree(desk.inbox)
    shutil.copytree(tmp_path / "copy", desk.inbox)
    desk.root = tmp_path / "disturbed"
    moments, kills, arrived = random.Random(7), 0, len(desk.left())
    # Soon enough that many kills fall among the fifteen files. A machine may be slower than when it
    # was measured, and never come to the first of them: then each kill comes a little later.
    longest_s, before = 0.4 * whole_s, arrived
    while left := len(desk.left()):
        longest_s *= 1.1 if left == before else 1.0
        before = left
        run = start(desk.inbox, desk.root)
        time.sleep(moments.uniform(0, longest_s))
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            kills += 1
        run.wait()
        # Each file is somewhere at every moment.
        gone = arrived - len(desk.left())
        assert len(desk.registry.entries) + len(desk.quarantine.held()) >= gone
        assert kills < 200, "it never gets on"
    assert kills >= 3, "too few kills to show anything"
    assert found(desk) == undisturbed
    assert start(desk.inbox, desk.root).wait() == 0
    assert found(desk) == undisturbed
    assert not [p for p in desk.root.rglob(".*") if p.name != ".lock"]
