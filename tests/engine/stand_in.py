"""A study whose stages wait instead of computing; all else is the real thing.

The import of cases, keys, store, flows, tasks, dispatcher, Prefect and its workers are what we
ship. Each body writes down who ran it, and when; a worker is known by the name in its environment.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flows.dispatch
import tasks.running
from flows.ingest_cases import ingest_cases
from flows.recognize import recognize
from flows.study import study
from flows.synthesize_class import synthesize_class
from synth_pipeline.errors import ClassFailedError
from synth_pipeline.progress import Progress
from synth_pipeline.store import Output
from synth_pipeline.study import Study

__all__ = ["ingest_cases", "recognize", "study", "synthesize_class"]

LOG = "executed.jsonl"
#: Steps of a fine-tuning, each of which waits; killed, it goes on from the last.
STEPS = 10


class StandInStudy(Study):
    """Every stage but the import waits, and leaves a small file."""

    def _node(self, stage: str, label: str, parameters: Any, body: Any, **more: Any) -> Any:
        if stage != "cases":
            body = functools.partial(_body, self, stage, label)
        return super()._node(stage, label, parameters, body, **more)


def _body(
    study: StandInStudy,
    stage: str,
    label: str,
    inputs: Mapping[str, Path],
    out_dir: Path,
    progress: Progress,
) -> Output:
    key = out_dir.name.split("-")[1]
    published = (out_dir.parent / key / "manifest.json").exists()
    note = functools.partial(_note, study.root, stage, label, published)
    note("begin")
    wait_s = float(os.environ.get("STAND_IN_WAIT_S", "0")) if stage == "dreambooth" else 0.0
    state = inputs["work"] / "state" if "work" in inputs else None
    begin = int(state.read_text()) if state and state.exists() else 0
    for step in range(begin, STEPS):
        if not wait_s:
            break
        time.sleep(wait_s / STEPS)
        progress(step + 1, STEPS, "")
        assert state is not None
        state.write_text(str(step + 1))
    _go_wrong(stage, label)
    (out_dir / "made.txt").write_text(f"{study.config.name} {stage} {label}")
    if stage == "sampling":
        images = int(os.environ.get("STAND_IN_FILES", "2"))
        for number in range(images):
            (out_dir / f"{number:05d}.png").write_bytes(f"{label} {number}".encode() * 200)
    note("end")
    parts = {}
    if stage == "selection":
        parts = {f"scale/{n}": f"{n:064d}" for n in study.scales(study.case_set.classes)}
    # What a run tells at its end of the faces in the training photos.
    faces = dict.fromkeys(("images", "found"), 1.0) | dict.fromkeys(("several", "by_search"), 0.0)
    return Output(parts=parts, measurements=faces if stage == "landmarks" else {})


def _go_wrong(stage: str, label: str) -> None:
    """What the environment of this worker says goes wrong on it."""
    if stage == "sampling" and os.environ.get("STAND_IN_FULL_DISK"):
        Path("/dev/full").write_text("no room")
    if stage == "sampling" and label in os.environ.get("STAND_IN_FAILS", "").split(","):
        raise RuntimeError("the stand-in fails as it was told to")
    if stage == "landmarks" and label.split(" ")[0] in os.environ.get("STAND_IN_NO_FACE", ""):
        raise ClassFailedError(label.split(" ")[0], f"{label} shows no face; leave it out.")


def _note(root: Path, stage: str, label: str, published: bool, what: str) -> None:
    line = {
        "what": what,
        "stage": stage,
        "label": label,
        "published": published,
        "worker": os.environ.get("STAND_IN_WORKER", "study"),
        "pid": os.getpid(),
        "time_s": time.time(),
    }
    # One write of one line is atomic enough for many writers.
    handle = os.open(root / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (json.dumps(line) + "\n").encode())
    os.close(handle)


tasks.running.STUDY = StandInStudy
# So that a test need not wait for what people do.
flows.dispatch.BACK_OFF_S = 1.0
flows.dispatch.LONELY_S = 5.0

if __name__ == "__main__":
    from flows.cli import main

    sys.exit(main())
