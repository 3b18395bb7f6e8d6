"""The command line as a user meets it, and a study that is as small as it gets."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

#: Everything real, as small as it gets: three classes of phantoms, the embedded base.
STUDY = """
name: small
seed: 3
cases:
  format: csv
  source: {source}
dreambooth: {{morphs: true, steps: 3, learning_rate: 0.0005, batch_size: 2, rank: 2}}
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


#: Whose photos the small study is made of: no trace of the name may be found anywhere.
PATIENT = "Jane Doe-Smith"

#: A `sitecustomize` that writes down every address that Python, in any process, wants to reach.
LISTEN = """
import sys

def _listen(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
    elif event == "socket.getaddrinfo":
        address = arguments[0]
    else:
        return
    with open("{log}", "a") as log:
        print(repr(address), file=log)

sys.addaudithook(_listen)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def command(*arguments: str | Path, also_import: Path = ROOT) -> Ended:
    """Run `synth-pipeline` in a process of its own, with another folder to import from."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{also_import}{os.pathsep}{ROOT}"},
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

    @property
    def photos(self) -> Path:
        """The folder of its photos, with their table."""
        return self.config.parent / "photos"

    def again(self, *more: str) -> Ended:
        return command("run", self.config, "--root", self.root, *more)

    def plan(self, *more: str) -> Ended:
        return command("plan", self.config, "--root", self.root, *more)
