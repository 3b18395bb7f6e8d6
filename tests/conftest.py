"""What several tests share: the landmark model, a few phantoms, and a small base model."""

import os
from pathlib import Path

# Before torch: two test processes with two threads each fight over two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest

from synth_pipeline.models import face_landmarker_path
from synth_pipeline.phantom.dataset import make_dataset
from tests.tiny_pipeline import write_tiny_pipeline

SHARED = Path(__file__).parent.parent.parent / "shared"


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
