"""The README's commands, walked as a stranger does: in a terminal, in an empty clone and home."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from synth_pipeline.models import FACE_LANDMARKER_NAME
from tests.command_line import ROOT, Ended
from tests.terminal import in_terminal

#: What makes a study of photos small enough to be walked; all else is as the README has it.
SMALL = [
    "dreambooth.steps=3",
    "sampling.images_per_class=8",
    "sampling.steps=4",
    "recognition.epochs=1",
    "recognition.folds=2",
    "recognition.backbones=[test_resnet]",
    "recognition.pretrained=false",
]
_LIMIT_S = 900


def shell_lines() -> list[str]:
    """Every command line in a fenced block of the README, without its comment."""
    text = (ROOT / "README.md").read_text()
    lines = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language in ("", "sh", "bash", "console"):
            shown = [line for line in block.splitlines() if line.strip()]
            # In a block with output only what follows the prompt is a command.
            prompted = [line[2:] for line in shown if line.startswith("$ ")]
            lines += [" ".join(shlex.split(line, comments=True)) for line in prompted or shown]
    return lines


@pytest.fixture(scope="module")
def walk(phantom_files, landmark_model, tmp_path_factory) -> Callable[..., Ended]:
    """Run a line in a terminal in an empty clone, with an empty home; DIR are folders of photos."""
    place = tmp_path_factory.mktemp("stranger")
    clone, home, photos = place / "clone", place / "home", place / "photos"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    # What `make setup` leaves: the environment, and the landmark model in the user's cache.
    (clone / ".venv").symlink_to(sys.prefix)
    (home / ".cache" / "synth-pipeline").mkdir(parents=True)
    shutil.copy(landmark_model, home / ".cache" / "synth-pipeline" / FACE_LANDMARKER_NAME)
    for name, files in phantom_files.items():
        (photos / name).mkdir(parents=True)
        for file in files:
            shutil.copy(file, photos / name)
    env = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "TERM": "xterm",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(clone),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }

    def run(line: str, *more: str) -> Ended:
        words = shlex.split(re.sub(r"\bDIR\b", shlex.quote(str(photos)), line))
        return in_terminal([*words, *more], cwd=clone, env=env, limit_s=_LIMIT_S)

    return run


def with_settings(names: list[str]) -> list[str]:
    return [word for name in names for word in ("--set", name)]


def test_the_two_commands_do_what_the_readme_says(walk):
    lines = [line for line in shell_lines() if line.startswith("make ")]
    assert lines == ["make quickstart", "make test"]
    dry = {line: walk(f"{line} --dry-run").out for line in lines}
    assert re.search(
        r"synth-pipeline run configs/quickstart.yaml --root quickstart", dry["make quickstart"]
    )
    assert re.search(r"python -m pytest", dry["make test"])


def test_own_photos_are_checked_planned_run_and_planned_again(walk):
    lines = [line for line in shell_lines() if "configs/faces.yaml" in line]
    check, plan, run, changed = lines
    small = with_settings(SMALL)

    ended = walk(check)
    assert ended.code == 0, ended.out

    ended = walk(plan, "--root", "results", *small)
    assert ended.code == 0, ended.out
    assert "0 cached" in ended.out

    ended = walk(run, *small)
    assert ended.code == 0, ended.out
    assert "Traceback" not in ended.out
    assert "Top-1 synthetic" in ended.out
    report = re.search(r"Report: (\S+)", ended.out)
    assert report is not None
    assert report[1].endswith("/results/studies/faces/report.html")
    assert Path(report[1]).is_file()

    again = walk(run, *small)
    assert again.code == 0, again.out
    assert re.search(r"\b0 stages run, \d+ cached", again.out)

    ended = walk(changed, "--root", "results", *small)
    assert ended.code == 0, ended.out
    assert re.search(r"^cached +dreambooth ", ended.out, re.MULTILINE)
    assert re.search(r"^run +sampling .*guidance_scale went from", ended.out, re.MULTILINE)
    assert re.search(r"^run +landmarks +\S+ synthetic +waits for sampling", ended.out, re.MULTILINE)


def test_phantoms_are_made(walk, tmp_path):
    benchmark, own = (line for line in shell_lines() if "phantom make" in line)
    assert "--benchmark phantom-20" in benchmark
    # As written it draws for minutes; `tests/phantom` compares the benchmark's own bytes.
    small = own.replace(
        "--classes 20 --per-class 8 --test-per-class 20 --size-px 256",
        "--classes 2 --per-class 1 --test-per-class 1 --size-px 96",
    )
    assert small != own
    ended = walk(small.replace("DIR", str(tmp_path / "made")))
    assert ended.code == 0, ended.out
    assert len(list((tmp_path / "made").rglob("*.png"))) == 4


def test_no_command_escapes_the_walk():
    walked = (
        "make ",
        "synth-pipeline cases check configs/faces.yaml",
        "synth-pipeline plan configs/faces.yaml",
        "synth-pipeline run configs/faces.yaml",
        "synth-pipeline phantom make",
    )
    assert not [line for line in shell_lines() if not line.startswith(walked)]
