"""Whether synthetic images are nearer to the photos they were learned from than to others.

The held-out photos of a class are the control: they show the same condition, and nothing was
learned from them. What is said here comes after selection and training, so that the held-out
photos still influence nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline import landmarks, likeness
from synth_pipeline.copies import Gallery
from synth_pipeline.face_mesh import POINTS, FaceMesh, face_mesh
from synth_pipeline.progress import Progress, silent
from synth_pipeline.seeds import derived_seed
from synth_pipeline.stored_pictures import read_picture

_RESAMPLES = 1000
_LEVEL = 0.95


def run(
    *,
    real: Mapping[str, Sequence[tuple[str, Path]]],
    held_out: Mapping[str, Sequence[Path]],
    synthetic: Mapping[str, Sequence[tuple[int, Path]]],
    real_landmarks: Mapping[str, Path],
    synthetic_landmarks: Mapping[str, Path],
    landmark_model: Path,
    seed: int,
    out_dir: Path,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `memorisation.parquet`: a row for each class, and one for all with a null class.

    The score is the share of triples (synthetic image, training photo, held-out photo) of a class
    whose image lies nearer to the training photo; faces are compared as the copy audit compares
    them (`likeness`, measure `face`, mirrored if that is nearer). 0.5 is chance, whatever the
    number of photos. It is no proof: exact copies of one of T training photos score 0.5 + 0.5 / T,
    because the share is of all of them.

    The 95 % interval of a class draws images and photos again (percentile bootstrap), and is null
    with a single training or held-out photo with a face; that of all draws classes again.

    Args:
        real: class id to (case id, file) of the training photos.
        held_out: class id to the files of the held-out photos.
        synthetic: class id to (index, file) of the synthetic images.
        real_landmarks: class id to the `landmarks` artifact of its training photos.
        synthetic_landmarks: class id to the `landmarks` artifact of its synthetic images.
        landmark_model: `face_landmarker.task`.
        seed: of the study.
        out_dir: an empty folder.
        progress: told after each class.

    Returns:
        The mean score of the classes that have one; nothing if none has.

    Raises:
        StageError: this system cannot keep MediaPipe from reporting its use to Google.
    """
    rows: list[dict[str, Any]] = []
    common = _common_face(real, real_landmarks)
    with face_mesh(landmark_model) as mesh:
        for done, name in enumerate(sorted(real), start=1):
            images = synthetic[name]
            pictures = likeness.describe(
                [path for _, path in images],
                landmarks.points_of(synthetic_landmarks[name], [f"{i:05d}" for i, _ in images]),
            )
            learned = landmarks.points_of(real_landmarks[name], [c for c, _ in real[name]])
            control = _points(mesh, held_out[name])
            training_ST, held_out_SH = (
                _of_faces(Gallery(files, points_px, landmark_model, common), pictures)
                for files, points_px in (
                    ([path for _, path in real[name]], learned),
                    (held_out[name], control),
                )
            )
            faced = np.isfinite(pictures.faces[:, 0])
            rng = np.random.default_rng(derived_seed(seed, "memorisation", name))
            rows.append({"class_id": name, **_score(training_ST[faced], held_out_SH[faced], rng)})
            progress(done, len(real), "classes")
    scores = np.array([row["score"] for row in rows if row["score"] is not None])
    rng = np.random.default_rng(derived_seed(seed, "memorisation"))
    whole = _of_all(scores, rng)
    sums = {name: sum(row[name] for row in rows) for name in ("training", "held_out", "images")}
    rows.append({"class_id": None, **sums, **whole})
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out_dir / "memorisation.parquet")
    return {} if whole["score"] is None else {"score": whole["score"]}


_SCHEMA = pa.schema(
    [
        ("class_id", pa.string()),
        # How many with a face were compared.
        ("training", pa.int32()),
        ("held_out", pa.int32()),
        ("images", pa.int32()),
        ("score", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


def _score(
    training_ST: np.ndarray, held_out_SH: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Score and interval of one class from the distances of S images."""
    images, training = training_ST.shape
    control = held_out_SH.shape[1]
    counts = {"training": training, "held_out": control, "images": images}
    if not (images and training and control):
        return {**counts, "score": None, "low": None, "high": None}
    nearer_STH = _nearer(training_ST[:, :, None], held_out_SH[:, None, :])
    score = float(nearer_STH.mean())
    if min(images, training, control) < 2:
        return {**counts, "score": score, "low": None, "high": None}
    drawn = [
        rng.multinomial(size, np.full(size, 1 / size), _RESAMPLES) / size
        for size in (images, training, control)
    ]
    resampled_B = np.einsum("bs,bt,bh,sth->b", *drawn, nearer_STH, optimize=True)
    return {**counts, "score": score, **_interval(resampled_B)}


def _nearer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a < b) + 0.5 * (a == b)


def _of_all(scores: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    if not len(scores):
        return {"score": None, "low": None, "high": None}
    if len(scores) < 2:
        return {"score": float(scores[0]), "low": None, "high": None}
    drawn = rng.choice(scores, (_RESAMPLES, len(scores))).mean(1)
    return {"score": float(scores.mean()), **_interval(drawn)}


def _interval(resampled_B: np.ndarray) -> dict[str, float]:
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(resampled_B, (tail, 1 - tail))
    return {"low": float(low), "high": float(high)}


def _of_faces(gallery: Gallery, pictures: likeness.Described) -> np.ndarray:
    """(S, R) distances of faces, without photos that show none."""
    # Asked of the photos themselves: where no picture shows a face, no distance is a number.
    shown_R = np.isfinite(gallery.photos.faces[:, 0])
    return gallery.distances(pictures)["face"][:, shown_R]


def _common_face(
    real: Mapping[str, Sequence[tuple[str, Path]]], real_landmarks: Mapping[str, Path]
) -> np.ndarray:
    """What all training photos share, as the copy audit takes it away."""
    described: Iterable[likeness.Described] = (
        likeness.describe(
            [path for _, path in photos],
            landmarks.points_of(real_landmarks[name], [case_id for case_id, _ in photos]),
        )
        for name, photos in sorted(real.items())
    )
    return likeness.mean_face(*described)


def _points(mesh: FaceMesh, files: Sequence[Path]) -> np.ndarray:
    """(N, 478, 3) landmarks of photos, not-a-number without a face."""
    points_px = np.full((len(files), POINTS, 3), np.nan, np.float32)
    for place, path in enumerate(files):
        face = mesh.find(np.asarray(read_picture(path)))
        if face is not None:
            points_px[place] = face.points_px
    return points_px
