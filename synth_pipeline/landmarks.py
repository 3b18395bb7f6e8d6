"""Face meshes of many images, on all cores, as one table."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline import measures
from synth_pipeline.errors import ClassFailedError
from synth_pipeline.face_mesh import POINTS
from synth_pipeline.face_workers import Sighting, sightings, workers_for
from synth_pipeline.faces_in_photos import FacesInPhotos
from synth_pipeline.progress import Progress, silent

logger = logging.getLogger("synth_pipeline")

_ROWS_IN_A_GROUP = 256


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
    real_photos: bool,
    search: bool | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `landmarks.parquet` for images of one class.

    The table holds, for each image, whether it could be read, its size, how many faces it shows,
    and of the largest the points, the head's pose in degrees (see `measures.pose`), and of a real
    photo the detector's confidence (asking for it takes a sixth more time, and synthetic images
    are a hundred times as many). How many workers look for faces never changes the table.

    Args:
        images: id and file of each, RGB.
        model: `face_landmarker.task`.
        out_dir: an empty folder.
        class_id: for the message.
        real_photos: the detector's confidence is kept, and a class of photos without any face is
            an error; of synthetic images it is only a fact.
        search: for small and turned faces too; by default in real photos.
        workers: processes that look for faces; one for each core by default.
        progress: told after each image.

    Returns:
        How many images there were (`images`), in how many a face was found (`found`), and how
        many are damaged (`unreadable`); of real photos also how many show several faces
        (`several`), and how many faces were found only by searching (`by_search`).

    Raises:
        ClassFailedError: `real_photos`, and there is no face in any image.
        StageError: a worker dies again and again (see `face_workers`), an image cannot be read
            though it may be whole, or this system cannot keep MediaPipe from reporting its use to
            Google.
    """
    ids, paths = [image_id for image_id, _ in images], [path for _, path in images]
    broken: list[str] = []
    found = several = by_search = done = 0
    with (
        sightings(
            model,
            paths,
            confidence=real_photos,
            search=real_photos if search is None else search,
            workers=workers or workers_for(len(images)),
            names=[f"image {image_id} of class {class_id}" for image_id in ids],
        ) as seen,
        # Random numbers do not repeat: looking for repetitions would take half the time.
        pq.ParquetWriter(out_dir / "landmarks.parquet", _SCHEMA, use_dictionary=False) as table,
    ):
        # Written as they come: memory does not grow with the number of images.
        for first in range(0, len(ids), _ROWS_IN_A_GROUP):
            rows = []
            for image_id in ids[first : first + _ROWS_IN_A_GROUP]:
                sighting = next(seen)
                rows.append(_row(image_id, sighting))
                by_search += bool(sighting.face and sighting.face.by_search)
                done += 1
                progress(done, len(images), "")
            table.write_table(pa.Table.from_pylist(rows, _SCHEMA))
            broken += [row["image_id"] for row in rows if not row["readable"]]
            found += sum(row["found"] for row in rows)
            several += sum(row["faces"] > 1 for row in rows)
    if broken:
        logger.warning("class %s: damaged: %s", class_id, ", ".join(broken))
    done_with: dict[str, float] = {"images": len(images), "found": found, "unreadable": len(broken)}
    if not real_photos:
        return done_with
    if not found:
        (out_dir / "landmarks.parquet").unlink()
        are = "is" if len(broken) == 1 else "are"
        damaged = f" ({len(broken)} of them {are} damaged)" if broken else ""
        raise ClassFailedError(
            class_id,
            f"no face was found in any of its {len(images)} training photos{damaged}, though each "
            "was searched for small and turned faces too; add a photo of a whole face that is "
            "sharp, uncovered, not in profile and at least 60 pixels high, or leave the class out.",
        )
    done_with |= {"several": several, "by_search": by_search}
    if told := FacesInPhotos.measured(done_with).facts():
        logger.warning("class %s: %s", class_id, told)
    return done_with


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


def _row(image_id: str, seen: Sighting) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_id": image_id,
        "readable": seen.size_px is not None,
        "found": seen.face is not None,
        "faces": 0,
    }
    if seen.size_px is not None:
        row["width_px"], row["height_px"] = seen.size_px
    if seen.face is None:
        return row
    yaw, pitch, roll = measures.pose(seen.face.points_px[None])[0]
    return {
        **row,
        "faces": seen.face.faces,
        "confidence": seen.face.confidence,
        "yaw_deg": yaw,
        "pitch_deg": pitch,
        "roll_deg": roll,
        "points": seen.face.points_px.ravel(),
    }
