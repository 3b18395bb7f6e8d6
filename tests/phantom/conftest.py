"""What the phantom tests share: the landmark model's file, the renderer, and the detector."""

from pathlib import Path

import mediapipe
import numpy as np
import pytest
from mediapipe.tasks.python import BaseOptions, vision

from synth_pipeline.errors import InputError
from synth_pipeline.models import face_landmarker_path
from synth_pipeline.phantom.dataset import PhantomRenderer


@pytest.fixture(scope="session")
def landmark_model() -> Path:
    """The genuine `face_landmarker.task`; without it there is no mesh to draw."""
    try:
        return face_landmarker_path()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def renderer(landmark_model: Path) -> PhantomRenderer:
    """A renderer of the real canonical mesh."""
    return PhantomRenderer(landmark_model)


@pytest.fixture(scope="session")
def find_landmarks(landmark_model: Path):
    """A function from an RGB image (H, W, 3) uint8 to (478, 2) landmarks in pixels, or None."""
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(landmark_model))
    )
    with vision.FaceLandmarker.create_from_options(options) as detector:

        def find(pixels: np.ndarray) -> np.ndarray | None:
            image = mediapipe.Image(
                image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels)
            )
            faces = detector.detect(image).face_landmarks
            if not faces:
                return None
            height, width = pixels.shape[:2]
            return np.array([(p.x * width, p.y * height) for p in faces[0]])

        yield find
