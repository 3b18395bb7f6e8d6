"""The wheel, used in a folder far from the checkout: it brings what its commands name."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from synth_pipeline import shipped
from synth_pipeline.shipped import find_config
from tests.command_line import ROOT, Ended
from tests.engine.stack import marked

_PATIENCE_S = 300
_SOURCES = ("configs", "deploy", "flows", "synth_pipeline", "tasks")


@dataclass(frozen=True)
class Installed:
    """A wheel in a folder of its own, and an empty folder to work in."""

    packages: Path
    here: Path

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
        return clean | {"PYTHONPATH": str(self.packages), "WHEEL_TEST": str(self.here)}

    def command(self, *arguments: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            capture_output=True,
            text=True,
            cwd=self.here,
            env=self.environment,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Installed:
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in _SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, source / path.name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--quiet"]
    built = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", place, source]
    subprocess.run([str(each) for each in built], check=True, cwd=place)
    (found,) = place.glob("*.whl")
    target = [*pip, "install", *offline, "--target", place / "packages", found]
    subprocess.run([str(each) for each in target], check=True, cwd=place)
    shutil.rmtree(source)
    (place / "here").mkdir()
    return Installed(place / "packages", place / "here")


@pytest.mark.parametrize("name", ["quickstart", "configs/quickstart.yaml"])
def test_its_configurations_are_found_by_name(wheel, name):
    done = wheel.command("plan", name)
    assert done.code == 0, done.err
    assert "in all: 0 cached" in done.out
    (told,) = done.err.splitlines()
    assert told.startswith(f"synth-pipeline: {name} is taken from the package: ")
    assert str(wheel.packages) in told
    assert (
        Path(told.rpartition(": ")[2]).read_bytes()
        == (ROOT / "configs" / "quickstart.yaml").read_bytes()
    )


def test_all_that_a_checkout_has_is_in_it(wheel):
    ours = wheel.packages / "synth_pipeline" / "assets" / "shipped"
    for path in sorted((ROOT / "configs").iterdir()):
        assert (ours / "configs" / path.name).read_bytes() == path.read_bytes()
    for name in ("prefect.yaml", "constraints.txt", "deploy/automations.yaml"):
        assert (ours / name).read_bytes() == (ROOT / name).read_bytes()


def test_what_is_not_there_is_told_with_a_command_that_works(wheel):
    done = wheel.command("run", "configs/nobody.yaml")
    assert done.code == 2
    (told,) = done.err.splitlines()
    advised = told.rpartition("such as ")[2].rstrip(".")
    assert wheel.command("plan", advised).code == 0


def test_up_runs_from_it(wheel):
    log = wheel.here / "up.log"
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w") as out:
        up = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up", "--root", "root", "--workers", "1"],
            stdout=out,
            stderr=out,
            cwd=wheel.here,
            env=wheel.environment,
            start_new_session=True,
        )
    signal.signal(signal.SIGINT, before)
    try:
        deadline_s = time.monotonic() + _PATIENCE_S
        while "Stop everything" not in log.read_text():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.2)
    finally:
        up.send_signal(signal.SIGINT)
        code = up.wait(_PATIENCE_S)
    assert code == 0, log.read_text()
    assert not marked(f"WHEEL_TEST={wheel.here}")


def test_up_looks_before_it_starts_anything(wheel):
    """Without its deployments, which is found at once and not after a server was started."""
    file = wheel.packages / "synth_pipeline" / "assets" / "shipped" / "prefect.yaml"
    file.rename(file.with_name("away"))
    try:
        done = wheel.command("up", "--root", "other")
    finally:
        file.with_name("away").rename(file)
    assert done.code == 2
    assert done.err == f"synth-pipeline: {file} is missing; install synth-pipeline again.\n"
    assert not (wheel.here / "other").exists()


def test_a_file_of_the_user_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = shipped.CONFIGS / "quickstart.yaml"
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml"):
        assert find_config(Path(name)) == ours
    # `--root quickstart` has made a folder of that name.
    Path("quickstart").mkdir()
    assert find_config(Path("quickstart")) == ours
    Path("quickstart.yaml").write_text("name: mine\n")
    assert find_config(Path("quickstart.yaml")) == Path("quickstart.yaml")
    for name in ("nobody.yaml", "elsewhere/quickstart.yaml", "../quickstart", str(tmp_path / "x")):
        assert find_config(Path(name)) == Path(name)
