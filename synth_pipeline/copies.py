"""The copy audit: which synthetic images show a training photo again.

Each synthetic image is compared with every training photo and with its mirror image, by the
measures of `likeness`. What counts as a copy is learned from the real photos: how near do photos of
*different* people come to each other?
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline import landmarks, likeness
from synth_pipeline.config import CopiesConfig
from synth_pipeline.progress import Progress, silent

#: With fewer photos than this a quantile means nothing; the nearest pair is used instead.
_PHOTOS_FOR_A_QUANTILE = 100
#: How far apart two pictures may at most be to count as copies, whatever the photos say. 10 bits of
#: 64 is the published rule of thumb for perceptual hashes; the others were measured: 99 % of
#: resized, recompressed, mirrored, turned and recoloured photos lie nearer (docs/decisions/0010).
_LARGEST = {"hash": 10.0, "pixels": 0.10, "face": 0.10, "landmarks": 0.03, "embedding": 0.05}


def run(
    config: CopiesConfig,
    *,
    real: Mapping[str, Sequence[tuple[str, str, Path]]],
    synthetic: Mapping[str, Sequence[tuple[int, Path]]],
    real_landmarks: Mapping[str, Path],
    synthetic_landmarks: Mapping[str, Path],
    landmark_model: Path,
    out_dir: Path,
    look: likeness.Look | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `copies.parquet` and `thresholds.json`.

    Args:
        config: how many false alarms are allowed.
        real: class id to (case id, subject id, file) of the training photos.
        synthetic: class id to (index, file) of the synthetic images.
        real_landmarks: class id to the `landmarks` artifact of its training photos.
        synthetic_landmarks: class id to the `landmarks` artifact of its synthetic images.
        landmark_model: `face_landmarker.task`, which knows what lies across from what in a face.
        out_dir: an empty folder.
        look: features of pictures, to compare them too.
        progress: told after each class.

    Returns:
        How many images were audited, how many are copies, and how many cannot be read.
    """
    photos = [photo for name in sorted(real) for photo in real[name]]
    files = [path for _, _, path in photos]
    points_px = np.concatenate(
        [
            landmarks.points_of(real_landmarks[name], [c for c, _, _ in real[name]])
            for name in sorted(real)
        ]
    )
    gallery = Gallery(files, points_px, landmark_model, look=look)
    subjects = [subject for _, subject, _ in photos]
    thresholds = calibrate(config, subjects, gallery.distances(gallery.photos))
    (out_dir / "thresholds.json").write_text(json.dumps(thresholds, indent=1) + "\n")
    rows: list[tuple[Any, ...]] = []
    for done, name in enumerate(sorted(synthetic), start=1):
        images = synthetic[name]
        points_px = landmarks.points_of(
            synthetic_landmarks[name], [f"{index:05d}" for index, _ in images]
        )
        described = likeness.describe([path for _, path in images], points_px, look=look)
        found = gallery.distances(described)
        for place, nearest, is_copy in _nearest(found, thresholds):
            told = [
                float(found[measure][place, nearest])
                if measure in found and not np.isnan(found[measure][place, nearest])
                else None
                for measure in likeness.MEASURES
            ]
            readable = bool(described.readable[place])
            rows.append(
                (
                    name,
                    images[place][0],
                    photos[nearest][0] if readable else None,
                    *told,
                    is_copy if readable else None,
                    int(described.hashes[place]) if readable else None,
                )
            )
        progress(done, len(synthetic), "classes")
    columns = [
        pa.array(c, kind) for c, kind in zip(zip(*rows, strict=True), _COPIES.types, strict=True)
    ]
    pq.write_table(pa.Table.from_arrays(columns, schema=_COPIES), out_dir / "copies.parquet")
    return {
        "images": len(rows),
        "copies": sum(bool(row[-2]) for row in rows),
        "unreadable": sum(row[-2] is None for row in rows),
    }


_COPIES = pa.schema(
    [
        ("class_id", pa.string()),
        ("index", pa.int32()),
        ("nearest_case_id", pa.string()),
        *((f"{measure}_distance", pa.float64()) for measure in likeness.MEASURES),
        # Null where the file cannot be read.
        ("copy", pa.bool_()),
        ("perceptual_hash", pa.uint64()),
    ]
)


class Gallery:
    """Photos that pictures are compared with, as they are and mirrored.

    Args:
        files: N photos.
        points_px: (N, 478, 3) their landmarks, not-a-number without a face.
        landmark_model: `face_landmarker.task`.
        common_face: (1024,) what all faces share; the mean of these photos by default.
        look: features of pictures, to compare them too.

    Attributes:
        photos: the photos as they are.
    """

    def __init__(
        self,
        files: Sequence[Path],
        points_px: np.ndarray,
        landmark_model: Path,
        common_face: np.ndarray | None = None,
        look: likeness.Look | None = None,
    ) -> None:
        self.photos = likeness.describe(files, points_px, look=look)
        mirror = likeness.mirror_table(landmark_model)
        self._mirrored = likeness.describe(files, points_px, mirror=mirror)
        if common_face is None:
            common_face = likeness.mean_face(self.photos, self._mirrored)
        self._common = common_face

    def distances(self, pictures: likeness.Described) -> dict[str, np.ndarray]:
        """By measure (M, N) of M pictures, to each photo or its mirror image if that is nearer."""
        straight = likeness.distances(pictures, self.photos, self._common)
        mirrored = likeness.distances(pictures, self._mirrored, self._common)
        return {
            name: np.fmin(values, mirrored.get(name, values)) for name, values in straight.items()
        }


def calibrate(
    config: CopiesConfig, subjects: Sequence[str], distances_RR: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """How near two pictures may be: nearer than photos of different people almost ever are.

    The statistic is each photo's distance to its nearest photo of another subject, mirrored or
    not, as an image's distance is to its nearest photo; the threshold lies just below its
    `false_alarm_rate` quantile. The nearest of 40 photos is no such quantile: taken alone it gave
    6 % false alarms instead of 1 % (on phantoms). So where photos are few, the prediction of a
    normal distribution fitted to the same distances (but for the hash, to their logarithms) counts
    if it is lower; that gave 1 to 1.7 %, with 15 to 200 photos.

    Args:
        config: the rate, which the measures share.
        subjects: who each of R photos shows.
        distances_RR: by measure, between the photos.

    Returns:
        `<measure>_distance` for each measure, `photos`, and `calibration` in words.
    """
    other_RR = np.array([[a != b for b in subjects] for a in subjects])
    photos = int(other_RR.any(1).sum())
    # Any of the measures may raise the alarm.
    rate = config.false_alarm_rate / len(distances_RR)
    found = {
        f"{name}_distance": _threshold(name, values_RR, other_RR, rate)
        for name, values_RR in distances_RR.items()
    }
    if photos == 0:
        words = "none: all training photos show one subject"
    else:
        enough = photos >= _PHOTOS_FOR_A_QUANTILE
        words = f"quantile {rate:g}" if enough else "nearest pair of different subjects"
        if photos * rate < 1:
            words += ", or the normal prediction if lower: few photos"
    return {**found, "photos": photos, "calibration": words}


def _threshold(name: str, values_RR: np.ndarray, other_RR: np.ndarray, rate: float) -> float:
    nearest = np.where(other_RR & ~np.isnan(values_RR), values_RR, np.inf).min(1)
    nearest = nearest[np.isfinite(nearest)]
    if not len(nearest):
        return _LARGEST[name]
    enough = len(nearest) >= _PHOTOS_FOR_A_QUANTILE
    # An observed distance and never one between two: 0.1 + 0.9 bits is not a number of bits.
    near = float(np.quantile(nearest, rate if enough else 0, method="lower"))
    bits = name == "hash"
    most = near - 1 if bits else 0.95 * near
    if len(nearest) * rate < 1 and len(nearest) > 1:
        values = nearest if bits else np.log(np.maximum(nearest, 1e-9))
        low = float(values.mean() - _deviations(len(values), rate) * values.std(ddof=1))
        most = min(most, low if bits else float(np.exp(low)))
    return float(np.clip(np.floor(most), 0, _LARGEST[name])) if bits else min(most, _LARGEST[name])


def _deviations(count: int, rate: float) -> float:
    """How many sample deviations below the mean a next value lies with this probability.

    Student's t of a prediction, expanded in 1/freedom (Fisher and Cornish 1960, to the second
    order). Nearest neighbours come in pairs, so half as many count.
    """
    freedom = max(count / 2 - 1, 1)
    z = -NormalDist().inv_cdf(rate)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return t * (1 + 2 / count) ** 0.5


def _nearest(
    distances_SR: Mapping[str, np.ndarray], thresholds: Mapping[str, Any]
) -> list[tuple[int, int, bool]]:
    """Of each picture its place, that of the photo most alike, and whether it is a copy of it.

    In units of what is allowed, so that the photo named is the one that raises the alarm.
    """
    alike = np.fmin.reduce(
        [
            values / (thresholds["hash_distance"] + 0.5)
            if name == "hash"
            else values / max(thresholds[f"{name}_distance"], 1e-9)
            for name, values in distances_SR.items()
        ]
    )
    alike = np.where(np.isnan(alike), np.inf, alike)
    nearest = alike.argmin(1)
    return [(s, int(r), bool(alike[s, r] <= 1)) for s, r in enumerate(nearest)]
