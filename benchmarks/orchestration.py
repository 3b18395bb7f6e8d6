"""What the engine costs: 103 classes, 6 backbones, 5 scales, with bodies that do nothing.

    python -m benchmarks.orchestration

Import of the cases, keys, store, tasks, flows and Prefect are the real ones
(tests/engine/stand_in); each class has a hundred files. Prints one JSON line:

- `overhead_ratio`: seconds a task of the study beyond its body's, over those of empty Prefect tasks
  in the same process, as many and in as many flows: what Prefect asks for such a study (limit 1.5).
  `flat_task_s` is an empty task of a single flow, for comparison: a flow takes as long to begin as
  fifty of them;
- `cached_seconds`: the same command again, when all is there, from its start to its end (30);
- `plan_seconds`: `synth-pipeline plan` (5);
- `peak_memory_mb`: of the process that runs the study, at its first run (1000);
- `headroom`: the smallest of limit over measured.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.command_line import ROOT

LIMITS = {"overhead_ratio": 1.5, "cached_seconds": 30, "plan_seconds": 5, "peak_memory_mb": 1000}
BACKBONES = ("resnet", "vit", "convnext", "efficientnet", "byobnet", "mambaout")
CLASSES, IMAGES = 103, 100


def first_run(root: Path, config: Path) -> dict[str, float]:
    """Run the study once, and as many empty tasks, in this process."""
    from flows import own_server

    own = own_server.OwnServer(root)
    # The study's tasks and the empty ones go to one server.
    own_server.OwnServer = lambda root: contextlib.nullcontext(own)  # type: ignore
    with own:
        own.ready()
        return _measured(root, config)


def _measured(root: Path, config: Path) -> dict[str, float]:
    # Whatever a study trains with needs it, and loading it takes seconds.
    import timm  # noqa: F401
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    import tests.engine.stand_in  # noqa: F401
    from flows.running import run_study
    from tests.engine.stand_in import LOG

    @task(cache_policy=NO_CACHE, persist_result=False)
    def empty(number: int) -> None:
        pass

    @flow(persist_result=False, validate_parameters=False)
    def many(count: int) -> None:
        for number in range(count):
            empty(number, return_state=True)

    @flow(persist_result=False, validate_parameters=False)
    def like_the_study() -> None:
        for count in (*[4] * CLASSES, *[66] * len(BACKBONES)):
            many(count, return_state=True)
        for number in range(6):
            empty(number, return_state=True)

    def timed_flow(of: Callable[[], object]) -> float:
        begun_s = time.monotonic()
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            of()
        return time.monotonic() - begun_s

    timed_flow(lambda: many(20))  # the server is up, and everything is imported
    count = 4 * CLASSES + 66 * len(BACKBONES) + 6
    before_s = timed_flow(like_the_study) / count
    flat_s = timed_flow(lambda: many(400)) / 400
    begun_s = time.monotonic()
    assert run_study(config, [], root, "memorisation") == 0
    took_s = time.monotonic() - begun_s
    after_s = timed_flow(like_the_study) / count
    lines = [json.loads(line) for line in (root / LOG).read_text().splitlines()]
    times = [line["time_s"] for line in lines]
    bodies_s = sum(end - begin for begin, end in zip(times[::2], times[1::2], strict=True))
    tasks = len(lines) // 2
    return {
        "tasks": tasks,
        "first_seconds": took_s,
        "empty_task_s": (before_s + after_s) / 2,
        "flat_task_s": flat_s,
        "study_task_s": (took_s - bodies_s) / tasks,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def timed(words: list[str], environment: dict[str, str]) -> float:
    """Seconds of a command, which must succeed."""
    begun_s = time.monotonic()
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - begun_s


def main() -> None:
    """Measure each part, and print the line."""
    from tests.engine.study_files import write_study

    environment = {**os.environ, "STAND_IN_FILES": str(IMAGES), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory(prefix="orchestration-") as place:
        root = Path(place) / "root"
        config = write_study(
            Path(place),
            "many",
            CLASSES,
            backbones=[f"test_{name}" for name in BACKBONES],
            regimes=["real", "synthetic", "mixed"],
            folds=5,
        )
        told = json.loads(config.read_text())
        told["sampling"] = {"images_per_class": IMAGES}
        told["selection"] = {"scales": [2000, 4000, 6000, 8000, 10000]}
        config.write_text(json.dumps(told))
        subprocess.run(
            [sys.executable, "-m", "benchmarks.orchestration", str(root), str(config)],
            cwd=ROOT,
            env=environment,
            check=True,
        )
        found = json.loads((root / "first.json").read_text())
        study = ["run", str(config), "--root", str(root), "--until", "memorisation"]
        line = [sys.executable, "-m"]
        found["cached_seconds"] = timed([*line, "tests.engine.stand_in", *study], environment)
        plan = [*line, "flows.cli", "plan", str(config), "--root", str(root)]
        found["plan_seconds"] = timed(plan, environment)
    found["overhead_ratio"] = found["study_task_s"] / found["empty_task_s"]
    found["headroom"] = min(limit / found[name] for name, limit in LIMITS.items())
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        place = Path(sys.argv[1])
        told = first_run(place, Path(sys.argv[2]))
        (place / "first.json").write_text(json.dumps(told))
    else:
        main()
