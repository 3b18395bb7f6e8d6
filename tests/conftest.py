"""What several tests share: the landmark model, a few phantoms, and a small base model."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch: two test processes with two threads each fight over two cores.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from synth_pipeline.models import face_landmarker_path
from synth_pipeline.phantom.dataset import make_dataset
from tests.browser import CHROMIUM, Browser, started_browser
from tests.command_line import LISTEN, PATIENT, STUDY, RunStudy, command
from tests.tiny_pipeline import write_tiny_pipeline

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(autouse=True)
def _the_environment_stays():
    """A command that a test runs in this process sets variables for the processes it starts."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def landmark_model() -> Path:
    return face_landmarker_path()


@pytest.fixture(scope="session")
def phantoms(landmark_model, tmp_path_factory) -> Path:
    """Three classes, four training and two held-out phantoms each, 128 px, as a table of cases."""
    folder = tmp_path_factory.mktemp("phantoms") / "made"
    make_dataset(
        folder,
        classes=3,
        per_class=4,
        test_per_class=2,
        size_px=128,
        seed=1,
        mesh_path=landmark_model,
    )
    return folder


@pytest.fixture(scope="session")
def phantom_files(phantoms) -> dict[str, list[Path]]:
    """Class to files, all six of each."""
    return {
        folder.name: sorted(folder.glob("*.png"))
        for folder in sorted((phantoms / "images").iterdir())
    }


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A Stable Diffusion pipeline with random weights, 32 px, in a few hundred kilobytes."""
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """The photos in ../shared/faces; tests that need them are skipped elsewhere."""
    if not (SHARED / "faces").is_dir():
        pytest.skip("../shared/faces is not here")
    return SHARED / "faces"


@pytest.fixture(scope="session")
def finished(phantoms, tmp_path_factory) -> RunStudy:
    """Run once for all tests, which leave it as they found it."""
    place = tmp_path_factory.mktemp("study")
    config = place / "small.yaml"
    config.write_text(STUDY.format(source=_name_the_patients(phantoms, place / "photos")))
    (place / "sitecustomize.py").write_text(LISTEN.format(log=place / "addresses.txt"))
    first = command("run", config, "--root", place / "root", also_import=place)
    return RunStudy(config, place / "root", first)


def _name_the_patients(phantoms: Path, source: Path) -> Path:
    """The phantoms as photos whose file names and metadata tell who is on them."""
    with (phantoms / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    source.mkdir()
    with (source / "cases.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, ("file", "class", "split"), extrasaction="ignore")
        table.writeheader()
        for number, row in enumerate(rows):
            name = f"{PATIENT} {number}.png"
            told = PngInfo()
            told.add_text("Comment", PATIENT)
            with Image.open(phantoms / row["file"]) as picture:
                picture.save(source / name, pnginfo=told)
            table.writerow({**row, "file": name})
    return source


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    """Headless Chromium; whom its pages ask is noted, and nobody beyond this machine answers."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here: apt-get install chromium")
    with started_browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture
def browser(chromium) -> Browser:
    """The browser of all tests, with nothing noted yet."""
    chromium.forget()
    return chromium


@pytest.fixture
def nobody():
    """Run something in a child process that has no rights of its own; its result comes back."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")

    def run(what):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                told = repr(what())
            except BaseException as error:
                told = f"{type(error).__name__}: {error}"
            os.write(writing, told.encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            told = stream.read()
        os.waitpid(child, 0)
        return told

    return run
