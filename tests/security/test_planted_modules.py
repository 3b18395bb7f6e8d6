"""Files of the working folder that are called like modules are not imported, by no process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from synth_pipeline.face_workers import sightings
from tests.command_line import ROOT
from tests.planted import plant


@pytest.fixture
def folder(tmp_path):
    """A working folder with planted modules, which the test must leave without a trace."""
    ran = plant(tmp_path / "here")
    # Drawing is not left to a file of that folder, either.
    (ran.parent / "matplotlibrc").write_text("axes.titlesize: 40\n")
    yield ran.parent
    assert not ran.exists(), ran.read_text()


def command_in(folder, *words, **more):
    """Run the command there as its console script does, whose own folder is first on the path."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "flows.cli", *map(str, words)],
        cwd=folder,
        # An empty entry means the working folder, for the processes that are started.
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_planted_modules_do_run_where_python_looks_for_them(tmp_path):
    ran = plant(tmp_path / "here")
    subprocess.run([sys.executable, "-c", "import numpy"], cwd=ran.parent, capture_output=True)
    assert "numpy" in ran.read_text()


def test_a_run_with_its_server_and_its_face_workers(finished, tmp_path, folder):
    root = tmp_path / "root"
    shutil.copytree(finished.root, root, ignore=shutil.ignore_patterns("prefect"))
    report = (root / "studies" / "small" / "report.html").read_bytes()
    for stage in ("landmarks", "report"):
        shutil.rmtree(root / "store" / stage)
    done = command_in(folder, "run", finished.config, "--root", root)
    assert done.returncode == 0, done.stderr
    assert (root / "studies" / "small" / "report.html").read_bytes() == report


def test_the_landmark_model_is_fetched(tmp_path, folder):
    """By pip, where its own address does not answer; here neither is reached."""
    nobody = "http://127.0.0.1:9"
    more = {"HOME": str(tmp_path), "https_proxy": nobody, "PIP_NO_INDEX": "1"}
    done = command_in(folder, "doctor", "--fetch", **more)
    assert done.returncode == 2, done.stderr
    assert "could not be downloaded" in done.stderr


def test_a_worker_of_a_notebook(phantom_files, landmark_model, tmp_path, folder, monkeypatch):
    """There the first place to look for modules is empty, which means the working folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    path = next(iter(phantom_files.values()))[0]
    # A model of its own: workers of other tests are not taken again.
    model = Path(shutil.copy(landmark_model, tmp_path))
    with sightings(model, [path], confidence=False, workers=1) as found:
        assert next(found).face is not None
