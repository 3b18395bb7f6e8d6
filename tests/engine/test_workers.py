"""Classes on several workers: each made once, at the same time, whoever dies meanwhile."""

import collections
import itertools
import random
import sys
import time
from collections.abc import Iterator

import pytest

from tests.engine.stack import Stack, ended
from tests.engine.study_files import write_study

WORKERS = ("one", "two", "three")
WAIT_S = "7"


@pytest.fixture(scope="module")
def three(stack) -> Iterator[Stack]:
    for name in WORKERS:
        stack.start_worker(name, STAND_IN_WAIT_S=WAIT_S)
    yield stack
    stack.stop_workers()


def spans(lines) -> list[tuple[str, str, str, float, float]]:
    """(worker, stage, label, begin, end) of each body that came to its end, in seconds."""
    begun, found = {}, []
    for line in lines:
        who = (line["pid"], line["stage"], line["label"])
        if line["what"] == "begin":
            begun[who] = line["time_s"]
        else:
            found.append((line["worker"], line["stage"], line["label"], begun[who], line["time_s"]))
    return found


def wall(found) -> tuple[float, set[str]]:
    """From the first class's beginning to the last one's end, and who took part."""
    made = [span for span in found if span[1] in ("landmarks", "dreambooth", "sampling")]
    seconds = max(end for *_, end in made) - min(begin for *_, begin, _ in made)
    return seconds, {worker for worker, *_ in made}


def picture(found) -> str:
    """Who fine-tuned what when: a line for each worker, a column for each second."""
    found = [span for span in found if span[1] == "dreambooth"]
    first = min(begin for *_, begin, _ in found)
    last = max(end for *_, end in found)
    lines = []
    for worker in sorted({worker for worker, *_ in found}):
        row = ["."] * (int(last - first) + 1)
        for who, _, label, begin, end in found:
            if who == worker:
                for second in range(int(begin - first), int(end - first) + 1):
                    row[second] = chr(ord("a") + int(label.rpartition("-")[2]) % 26)
        lines.append(f"{worker:>6} {''.join(row)}")
    return "\n".join(lines)


def nothing_is_left(stack: Stack, name: str) -> None:
    assert not list(stack.root.glob(f"studies/{name}/.runs/*")), "a lease is left"
    assert not list(stack.root.glob("store/*/.new-*")), "a half-made folder is left"
    assert not list(stack.root.glob("store/*/.work-*")), "a state is left"
    for path in stack.root.glob("store/.locks/*"):
        import fcntl

        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unfinished = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}}}
    # The runs of the nightly schedule wait for their nights.
    assert not [run for run in stack.api.find("flow_runs", unfinished) if not run["auto_scheduled"]]


@pytest.mark.slow  # four minutes, most of them waited by the one worker
def test_twelve_classes_on_three_workers(three, tmp_path, capsys):
    config = write_study(tmp_path, "twelve", 12)
    known = len(three.executed())
    done = three.run_study(config, "--until", "memorisation")
    assert done.code == 0, done.err
    found = spans(three.executed()[known:])
    # 4 of each class, ranking, copies, selection, 3 runs of 2 folds with evaluation, 2 at the end
    times = collections.Counter((stage, label) for _, stage, label, *_ in found)
    assert set(times.values()) == {1}
    assert len(times) == 12 * 4 + 3 + 3 * 3 + 2
    assert f"{len(times) + 1} stages run, 0 cached" in done.out
    together_s, workers = wall(found)
    assert workers == set(WORKERS)
    nothing_is_left(three, "twelve")
    again = three.run_study(config, "--until", "memorisation")
    assert f"0 stages run, {len(times) + 1} cached" in again.out
    assert len(spans(three.executed()[known:])) == len(found)
    # The same with one worker; another seed, so that they are made anew.
    for name in WORKERS[1:]:
        three.stop_worker(name)
    known = len(three.executed())
    alone = three.start_study(config, "--until", "sampling", "--set", "seed=1")
    assert ended(alone, 600).code == 0
    alone_s, workers = wall(spans(three.executed()[known:]))
    assert workers == {WORKERS[0]}
    for name in WORKERS[1:]:
        three.start_worker(name, STAND_IN_WAIT_S=WAIT_S)
    with capsys.disabled():
        sys.stdout.write(
            f"\nFine-tuning of twelve classes, a column for each second:\n{picture(found)}\n"
            f"{together_s:.0f} s; one worker took {alone_s:.0f} s\n"
        )
    assert together_s <= 0.6 * alone_s


def test_twenty_workers_are_killed_in_a_fine_tuning(three, tmp_path):
    config = write_study(tmp_path, "killed", 9)
    known = len(three.executed())
    study = three.start_study(config, "--set", "seed=7", "--until", "sampling")
    dice = random.Random(7)
    for kill in range(20):
        worker = _fine_tuning(three, study, known, dice)
        time.sleep(dice.uniform(0, 0.6))
        three.kill_worker(worker)
        three.start_worker(f"{worker.partition('-')[0]}-{kill}", STAND_IN_WAIT_S=WAIT_S)
    done = ended(study, 900)
    assert done.code == 0, done.err
    lines = three.executed()[known:]
    assert not any(line["published"] for line in lines), "made again though it was published"
    ends = collections.Counter(
        (line["stage"], line["label"]) for line in lines if line["what"] == "end"
    )
    assert len(ends) == 9 * 3
    nothing_is_left(three, "killed")
    # Everything verifies, byte for byte.
    again = three.run_study(config, "--set", "seed=7", "--until", "sampling")
    assert "0 stages run" in again.out


def _fine_tuning(stack: Stack, study, known: int, dice: random.Random) -> str:
    """Some living worker that is in the middle of a fine-tuning."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        assert study.poll() is None, study.communicate()
        open_ = {}
        for line in stack.executed()[known:]:
            if line["stage"] == "dreambooth":
                if line["what"] == "begin":
                    open_[line["worker"]] = line["label"]
                else:
                    open_.pop(line["worker"], None)
        if living := sorted(set(open_) & set(stack.workers)):
            return dice.choice(living)
        time.sleep(0.1)
    raise AssertionError("nobody fine-tunes")


def test_the_server_is_started_again_in_the_middle(three, tmp_path):
    config = write_study(tmp_path, "restarted", 5)
    known = len(three.executed())
    study = three.start_study(config, "--set", "seed=8", "--until", "sampling")
    for _ in itertools.repeat(None, 600):
        if any(line["stage"] == "sampling" for line in three.executed()[known:]):
            break
        time.sleep(0.2)
    three.server.kill()
    three.server.wait()
    time.sleep(3)
    three.start_server()
    done = ended(study, 300)
    assert done.code == 0, done.err
    lines = three.executed()[known:]
    assert not any(line["published"] for line in lines)
    nothing_is_left(three, "restarted")
