"""Face meshes of many images, on all cores, as one table."""

import logging
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from synth_pipeline import measures
from synth_pipeline.errors import ClassFailedError
from synth_pipeline.face_mesh import POINTS, FaceMesh, face_mesh
from synth_pipeline.progress import Progress, silent

logger = logging.getLogger("synth_pipeline")

#: A worker costs a tenth of a second to begin: less than this many images do not pay for it.
_IMAGES_FOR_A_WORKER = 8
#: Python's own part runs on one core at a time, so that more than a few only wait.
_MOST_WORKERS = 8


@dataclass(frozen=True)
class LandmarkTable:
    """Landmarks of several images.

    Attributes:
        image_ids: N ids, in the order of the table.
        found: (N,) bool, whether a face was found.
        points_px: (N, 478, 3) float32; x right, y down, z away from the camera, all in pixels of
            the image; not-a-number where no face was found.
    """

    image_ids: tuple[str, ...]
    found: np.ndarray
    points_px: np.ndarray


def run(
    images: Sequence[tuple[str, Path]],
    *,
    model: Path,
    out_dir: Path,
    class_id: str,
    require_face: bool,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `landmarks.parquet` for images of one class.

    The table holds, for each image, whether it could be read, its size, how many faces it shows,
    and of the largest the points, the detector's confidence and the head's pose in degrees (see
    `measures.pose`). How many workers look for faces never changes it.

    Args:
        images: id and file of each, RGB.
        model: `face_landmarker.task`.
        out_dir: an empty folder.
        class_id: for the message.
        require_face: whether a class without any face is an error (real photos), or only a fact
            (synthetic images).
        workers: threads that look for faces; one for each core by default.
        progress: told after each image.

    Returns:
        How many images there were, in how many a face was found, and how many cannot be read.

    Raises:
        ClassFailedError: `require_face`, and there is no face in any image.
        StageError: this system cannot keep MediaPipe from reporting its use to Google.
    """
    rows: list[dict[str, Any]] = [{} for _ in images]
    with ExitStack() as stack:
        meshes = [
            stack.enter_context(face_mesh(model))
            for _ in range(workers or _workers_for(len(images)))
        ]
        for done, (place, row) in enumerate(_shared_out(meshes, images), start=1):
            rows[place] = row
            progress(done, len(images), "")
    broken = [row["image_id"] for row in rows if not row["readable"]]
    if broken:
        logger.warning("class %s: cannot read %s", class_id, ", ".join(broken))
    found = sum(row["found"] for row in rows)
    if require_face and not found:
        raise ClassFailedError(
            class_id,
            f"no face was found in any of its {len(rows)} training photos; "
            "add a photo that shows the face from the front, or leave the class out.",
        )
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out_dir / "landmarks.parquet")
    return {"images": len(rows), "found": found, "unreadable": len(broken)}


_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("readable", pa.bool_()),
        ("found", pa.bool_()),
        ("faces", pa.int32()),
        ("confidence", pa.float32()),
        ("yaw_deg", pa.float32()),
        ("pitch_deg", pa.float32()),
        ("roll_deg", pa.float32()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("points", pa.list_(pa.float32())),
    ]
)


def load(folder: Path) -> LandmarkTable:
    """Read a `landmarks` artifact."""
    table = pq.read_table(folder / "landmarks.parquet", columns=["image_id", "found", "points"])
    found = table["found"].to_numpy()
    points_px = np.full((len(found), POINTS, 3), np.nan, np.float32)
    for place, row in enumerate(table["points"]):
        if row.is_valid:
            points_px[place] = row.values.to_numpy().reshape(POINTS, 3)
    return LandmarkTable(tuple(table["image_id"].to_pylist()), found, points_px)


def points_of(folder: Path, image_ids: Sequence[str]) -> np.ndarray:
    """(N, 478, 3) pixels of these images of a `landmarks` artifact, in this order."""
    table = load(folder)
    places = {image_id: place for place, image_id in enumerate(table.image_ids)}
    return table.points_px[[places[each] for each in image_ids]]


def _workers_for(images: int) -> int:
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, _MOST_WORKERS, images // _IMAGES_FOR_A_WORKER))


def _shared_out(
    meshes: Sequence[FaceMesh], images: Sequence[tuple[str, Path]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place and row of each image, as they are done, by whoever is free."""
    waiting = iter(enumerate(images))
    lock = threading.Lock()
    done: queue.Queue[tuple[int, dict[str, Any]] | BaseException] = queue.Queue()
    stopped = threading.Event()

    def work(mesh: FaceMesh) -> None:
        try:
            while not stopped.is_set():
                with lock:
                    place, image = next(waiting, (None, None))
                if place is None or image is None:
                    return
                done.put((place, _row(mesh, *image)))
        except BaseException as error:  # raised where the rows are awaited
            done.put(error)

    for mesh in meshes:
        mesh.worker.submit(work, mesh)
    try:
        for _ in images:
            answer = done.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        stopped.set()


def _row(mesh: FaceMesh, image_id: str, path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"image_id": image_id, "readable": True, "found": False, "faces": 0}
    try:
        with Image.open(path) as opened:
            pixels_HWC = np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        # What Pillow raises for a file that is cut short or was never an image.
        return {**row, "readable": False}
    row.update(width_px=pixels_HWC.shape[1], height_px=pixels_HWC.shape[0])
    face = mesh.find_here(pixels_HWC)
    if face is None:
        return row
    yaw, pitch, roll = measures.pose(face.points_px[None])[0]
    return {
        **row,
        "found": True,
        "faces": face.faces,
        "confidence": face.confidence,
        "yaw_deg": yaw,
        "pitch_deg": pitch,
        "roll_deg": roll,
        "points": face.points_px.ravel(),
    }
