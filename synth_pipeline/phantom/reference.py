"""Reference figures of a folder of phantoms: how far nearest prototypes get, and no training.

On true shape it is what no method can be expected to beat; on pixels what any method should.
"""

import csv
import json
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from synth_pipeline import embeddings, landmarks
from synth_pipeline.config import Embedding
from synth_pipeline.phantom import phenotypes
from synth_pipeline.progress import Progress, silent
from synth_pipeline.stored_pictures import read_picture

_THUMBNAIL_PX = 32


def reference_figures(
    folder: Path, *, landmark_model: Path, scratch: Path, progress: Progress = silent
) -> dict[str, float]:
    """Top-1 of the held-out phantoms by their nearest prototype.

    Args:
        folder: made by `make_dataset`, with training and held-out images of every condition.
        landmark_model: `face_landmarker.task`.
        scratch: an empty folder for the landmarks.
        progress: told after each image.

    Returns:
        `true_shape`: Euclidean, in inter-individual SD, the upper bound; each embedding by
        its name: cosine, on detected landmarks, where a phantom without a face counts as wrong;
        `pixels`: Euclidean, on grey thumbnails of 32 by 32; `chance`; `held_out`, their number.
    """
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = sorted({row["class"] for row in rows})
    labels = np.array([names.index(row["class"]) for row in rows])
    training = np.array([row["split"] == "train" for row in rows])
    truths = {}
    for line in (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines():
        truth = json.loads(line)
        truths[truth["file"]] = [truth["shape_sd"][name] for name in phenotypes.FIELDS]
    shapes_NF = np.array([truths[row["file"]] for row in rows])
    files = [folder / row["file"] for row in rows]
    figures = {
        "true_shape": _nearest_mean(shapes_NF, labels, training),
        "pixels": _nearest_mean(np.stack([_thumbnail(f) for f in files]), labels, training),
        "chance": 1 / len(names),
        "held_out": int((~training).sum()),
    }
    landmarks.run(
        [(str(number), path) for number, path in enumerate(files)],
        model=landmark_model,
        out_dir=scratch,
        class_id="phantoms",
        real_photos=True,
        progress=progress,
    )
    table = landmarks.load(scratch)
    for embedding in get_args(Embedding):
        figures[embedding.replace("-", "_")] = nearest_prototype(embedding, table, labels, training)
    return figures


def nearest_prototype(
    embedding: Embedding,
    table: landmarks.LandmarkTable,
    labels: np.ndarray,
    training: np.ndarray,
) -> float:
    """Top-1 of the images that are not `training`, by cosine to the prototypes of those that are.

    Args:
        embedding: fitted to the training images.
        table: the landmarks of N images.
        labels: (N,) int, 0 to C-1.
        training: (N,) bool.
    """
    fitted = training & table.found
    population = embeddings.fit(embedding, table.points_px[fitted], labels[fitted].tolist())
    embedded_ND = np.zeros((len(labels), population.projection.shape[1]))
    embedded_ND[table.found] = population.embed(table.points_px[table.found])
    classes = range(int(labels.max()) + 1)
    prototypes_CD = np.stack([embedded_ND[fitted & (labels == c)].mean(0) for c in classes])
    nearest_N = embeddings.cosine(embedded_ND, prototypes_CD).argmax(1)
    return float(((nearest_N == labels) & table.found)[~training].mean())


def _nearest_mean(features_NF: np.ndarray, labels: np.ndarray, training: np.ndarray) -> float:
    classes = range(int(labels.max()) + 1)
    means_CF = np.stack([features_NF[training & (labels == c)].mean(0) for c in classes])
    asked_NF = features_NF[~training]
    distances_NC = ((asked_NF[:, None] - means_CF) ** 2).sum(2)
    return float((distances_NC.argmin(1) == labels[~training]).mean())


def _thumbnail(path: Path) -> np.ndarray:
    """(1024,) float64: grey, of mean zero, so that the light's strength does not count."""
    shown = read_picture(path).convert("L")
    small = shown.resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
    grey = np.asarray(small, np.float64).ravel()
    return grey - grey.mean()
