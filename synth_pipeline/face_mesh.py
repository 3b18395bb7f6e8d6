"""MediaPipe's face mesh of one picture: 478 points of its largest face, offline."""

import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from synth_pipeline.offline import offline_worker

POINTS = 478
_MOST_FACES = 5
#: Notices may come with the first picture or, of the alignment of memory, with a later one.
_PICTURES_FOR_NOTICES = 3
_X_Y_Z = attrgetter("x", "y", "z")


@dataclass(frozen=True)
class Face:
    """The largest face of a picture.

    Attributes:
        points_px: (478, 3) float32; x right, y down, z away from the camera, all in pixels of the
            picture.
        faces: how many faces the picture shows.
        confidence: of MediaPipe's face detector, 0.5 to 1; none where it was not asked for, or
            only the landmark model saw the face.
    """

    points_px: np.ndarray
    faces: int
    confidence: float | None


class FaceMesh:
    """MediaPipe's models on one thread of their own, which cannot reach the internet.

    Args:
        worker: that thread.
        model: `face_landmarker.task`.
    """

    def __init__(self, worker: ThreadPoolExecutor, model: Path) -> None:
        self.worker = worker
        self._landmarker, self._detector, self._image = worker.submit(_models, model).result()

    def find(self, pixels_HWC: np.ndarray) -> Face | None:
        """The largest face of a picture, or none; waits for the thread.

        Args:
            pixels_HWC: (H, W, 3) uint8.
        """
        return self.worker.submit(self.find_here, pixels_HWC).result()

    def find_here(self, pixels_HWC: np.ndarray, *, confidence: bool = False) -> Face | None:
        """As `find`, for what runs on the thread itself.

        Args:
            pixels_HWC: (H, W, 3) uint8.
            confidence: ask for it too, which takes a sixth more time.
        """
        image = self._image(pixels_HWC)
        faces = self._faces(image, 0)
        if not faces:
            # A tight crop: the detector wants some room around a face.
            margin = max(pixels_HWC.shape[:2]) // 2
            pixels_HWC = np.pad(
                pixels_HWC, ((margin, margin), (margin, margin), (0, 0)), mode="edge"
            )
            image = self._image(pixels_HWC)
            faces = self._faces(image, margin)
        if not faces:
            return None
        areas = [float(np.prod(np.ptp(face[:, :2], axis=0))) for face in faces]
        largest = faces[int(np.argmax(areas))]
        return Face(largest, len(faces), self._confidence(image) if confidence else None)

    def close(self) -> None:
        """Free the models, by hand: left to the interpreter's end, they print a traceback."""
        with _quiet():
            for model in (self._landmarker, self._detector):
                self.worker.submit(model.close).result()

    def _faces(self, image: Any, margin_px: int) -> list[np.ndarray]:
        found = self._landmarker.detect(image).face_landmarks
        # z is given in the unit of x, which is the picture's width.
        scale = np.array([image.width, image.height, image.width])
        shift = np.array([margin_px, margin_px, 0])
        return [
            (np.array([*map(_X_Y_Z, face)]) * scale - shift).astype(np.float32) for face in found
        ]

    def _confidence(self, image: Any) -> float | None:
        """Of the largest face that the detector sees."""
        found = self._detector.detect(image).detections
        if not found:
            return None
        largest = max(found, key=lambda each: each.bounding_box.width * each.bounding_box.height)
        return float(largest.categories[0].score)


@contextmanager
def face_mesh(model: Path) -> Iterator[FaceMesh]:
    """MediaPipe's models, closed afterwards.

    Args:
        model: `face_landmarker.task`.

    Raises:
        StageError: this system cannot keep MediaPipe from reporting its use to Google.
    """
    with offline_worker() as worker:
        mesh = FaceMesh(worker, model)
        try:
            yield mesh
        finally:
            mesh.close()


def _models(model: Path) -> tuple[Any, Any, Callable[[np.ndarray], Any]]:
    """Landmarker, detector, and a function that wraps (H, W, 3) uint8 pixels for them."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    def image(pixels: np.ndarray) -> Any:
        return mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))

    # The landmarker keeps the detector's score to itself, so its detector is asked once more.
    with zipfile.ZipFile(model) as parts:
        detector_model = parts.read("face_detector.tflite")
    with _quiet():
        landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(model)), num_faces=_MOST_FACES
            )
        )
        detector = vision.FaceDetector.create_from_options(
            vision.FaceDetectorOptions(base_options=BaseOptions(model_asset_buffer=detector_model))
        )
        # The graphs are built, and their notices written, with the first pictures.
        for each in (landmarker, detector) * _PICTURES_FOR_NOTICES:
            each.detect(image(np.zeros((64, 64, 3), np.uint8)))
    return landmarker, detector, image


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MediaPipe's C++ notices off the terminal; no setting of its own does that."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
