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

from synth_pipeline import face_search
from synth_pipeline.offline import offline_worker

POINTS = 478
_MOST_FACES = 5
#: A tight crop of more is left to the search, which makes it smaller: room around it would take
#: four times its memory.
_LARGEST_PADDED_PX = 4096
#: A first look of this confidence is never doubted: of 1,440 faces turned by 0 to 345 degrees none
#: that was seen so had its mesh in a wrong place (0.86 at most), and 9 of 10 upright ones are.
_SURE_AT_ONCE = 0.88
#: So much surer a turned face must be to replace what the first look saw.
_BETTER_BY = 0.05
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
        by_search: whether the first look did not see it, or misplaced it, because it is small or
            turned.
    """

    points_px: np.ndarray
    faces: int
    confidence: float | None
    by_search: bool = False


class FaceMesh:
    """MediaPipe's models on one thread of their own, which cannot reach the internet.

    Args:
        worker: that thread.
        model: `face_landmarker.task`.
    """

    def __init__(self, worker: ThreadPoolExecutor, model: Path) -> None:
        self.worker = worker
        loading = worker.submit(_models, model)
        try:
            self._landmarker, self._detector, self._image = loading.result()
        except KeyboardInterrupt:
            # The thread goes on; what it loads is freed like the others.
            worker.submit(lambda: _close(*loading.result()[:2]))
            raise

    def find(self, pixels_HWC: np.ndarray, *, search: bool = True) -> Face | None:
        """The largest face of a picture, or none; waits for the thread.

        Args:
            pixels_HWC: (H, W, 3) uint8.
            search: for small and turned faces too, where the first look sees none for sure.
        """
        return self.worker.submit(self.find_here, pixels_HWC, search=search).result()

    def find_here(
        self, pixels_HWC: np.ndarray, *, confidence: bool = False, search: bool = True
    ) -> Face | None:
        """As `find`, for what runs on the thread itself.

        Args:
            pixels_HWC: (H, W, 3) uint8.
            confidence: return it too; without `search` it takes a sixth more time.
            search: for small and turned faces too, where the first look sees none for sure. What
                the first look sees for sure, or what the search confirms, stays as it is.
        """
        image, faces = self._first_look(pixels_HWC)
        if not faces:
            return self._searched(pixels_HWC) if search else None
        seen = self._confidence(image) if confidence or search else None
        areas = [float(np.prod(np.ptp(face[:, :2], axis=0))) for face in faces]
        largest = faces[int(np.argmax(areas))]
        # A face that stands on its head is often given a mesh that does not.
        if search and (seen or 0) < _SURE_AT_ONCE and self._is_surer_turned(image, seen or 0):
            better = self._searched(pixels_HWC, instead_of=largest, seen=seen or 0)
            if better:
                return better
        return Face(largest, len(faces), seen if confidence else None)

    def close(self) -> None:
        """Free the models, by hand: left to the interpreter's end, they print a traceback."""
        self.worker.submit(_close, self._landmarker, self._detector).result()

    def _first_look(self, pixels_HWC: np.ndarray) -> tuple[Any, list[np.ndarray]]:
        """The picture in which faces were found, and their points in pixels of `pixels_HWC`."""
        image = self._image(pixels_HWC)
        faces = self._faces(image, 0)
        if not faces and max(pixels_HWC.shape) <= _LARGEST_PADDED_PX:
            # A tight crop: the detector wants some room around a face.
            margin = max(pixels_HWC.shape[:2]) // 2
            pixels_HWC = np.pad(
                pixels_HWC, ((margin, margin), (margin, margin), (0, 0)), mode="edge"
            )
            image = self._image(pixels_HWC)
            faces = self._faces(image, margin)
        return image, faces

    def _is_surer_turned(self, image: Any, seen: float) -> bool:
        return face_search.is_surer_turned(image.numpy_view(), self._detect, seen + _BETTER_BY)

    def _searched(
        self, pixels_HWC: np.ndarray, instead_of: np.ndarray | None = None, seen: float = 0
    ) -> Face | None:
        """The largest face that a search finds.

        Args:
            pixels_HWC: (H, W, 3) uint8.
            instead_of: a mesh that is not sure; only a face that shows it to be misplaced counts.
            seen: its confidence.
        """
        doubted = instead_of is not None
        found = face_search.search(
            pixels_HWC,
            self._detect,
            lambda pixels: self._faces(self._image(pixels), 0),
            halvings=0 if doubted else face_search.HALVINGS,
            sure=min(face_search.SURE, seen + _BETTER_BY) if doubted else face_search.SURE,
        )
        if not found:
            return None
        if instead_of is not None and (
            any(face_search.is_same(face.points_px, instead_of) for face in found)
            or found[0].confidence < seen + _BETTER_BY
        ):
            return None
        return Face(found[0].points_px, len(found), found[0].confidence, by_search=True)

    def _faces(self, image: Any, margin_px: int) -> list[np.ndarray]:
        found = self._landmarker.detect(image).face_landmarks
        # z is given in the unit of x, which is the picture's width.
        scale = np.array([image.width, image.height, image.width])
        shift = np.array([margin_px, margin_px, 0])
        return [
            (np.array([*map(_X_Y_Z, face)]) * scale - shift).astype(np.float32) for face in found
        ]

    def _detect(self, pixels_HWC: np.ndarray) -> list[tuple[float, np.ndarray]]:
        """Score and box (left, top, right, bottom) of each face that the detector sees."""
        found = []
        for each in self._detector.detect(self._image(pixels_HWC)).detections:
            box = each.bounding_box
            corners = (
                box.origin_x,
                box.origin_y,
                box.origin_x + box.width,
                box.origin_y + box.height,
            )
            found.append((float(each.categories[0].score), np.array(corners, np.float64)))
        return found

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


def _close(*models: Any) -> None:
    with _quiet():
        for model in models:
            model.close()


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
