"""A study that has been run once through the command line, as a user would."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

#: Everything real, as small as it gets: three classes of phantoms, the embedded base.
STUDY = """
name: small
seed: 3
cases:
  format: csv
  source: {source}
dreambooth: {{steps: 3, learning_rate: 0.0005, batch_size: 2, rank: 2}}
sampling: {{images_per_class: 6, steps: 6, guidance_scale: 2.0, scheduler: base, batch_size: 6}}
selection: {{scales: [6, 12]}}
recognition:
  backbones: [test_resnet]
  regimes: [real, synthetic]
  pretrained: false
  folds: 2
  epochs: 1
  size_px: 48
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def command(*arguments: str | Path, cwd: Path = ROOT) -> Ended:
    """Run `synth-pipeline` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class RunStudy:
    """A finished study.

    Attributes:
        config: its file.
        root: where it was run.
        first: how the first run ended.
    """

    config: Path
    root: Path
    first: Ended

    def again(self, *more: str) -> Ended:
        return command("run", self.config, "--root", self.root, *more)

    def plan(self, *more: str) -> Ended:
        return command("plan", self.config, "--root", self.root, *more)


@pytest.fixture(scope="session")
def finished(phantoms, tmp_path_factory) -> RunStudy:
    """Run once for all tests, which leave it as they found it."""
    place = tmp_path_factory.mktemp("study")
    config = place / "small.yaml"
    config.write_text(STUDY.format(source=phantoms))
    return RunStudy(config, place / "root", command("run", config, "--root", place / "root"))


@pytest.fixture
def write_config(tmp_path) -> Callable[..., Path]:
    """Write the small study with another source; returns its file."""

    def write(source: Path | str, old: str = "", new: str = "") -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(STUDY.format(source=source).replace(old, new))
        return path

    return write
