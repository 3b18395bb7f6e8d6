"""Prototypes of real training photos, and how near each synthetic image lies to them.

Held-out photos have no part in a prototype, though the published protocol lets them in: a test
photo that shaped the choice of training images would be no test.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline import embeddings, landmarks, measures
from synth_pipeline.config import RankingConfig
from synth_pipeline.errors import InputError
from synth_pipeline.likeness import Look

logger = logging.getLogger("synth_pipeline")


def run(
    config: RankingConfig,
    *,
    real: Mapping[str, Path],
    synthetic: Mapping[str, Path],
    out_dir: Path,
    appearance: Mapping[str, Mapping[int, float]] | None = None,
) -> dict[str, float]:
    """Write `ranking.parquet`, `prototypes.parquet` and `embeddings.parquet`.

    Of each synthetic image with a face: cosine and Euclidean distance to the prototype of its own
    class, the rank of that class among all (1 is the best), and `pulled_away_by`: up to three
    measures that lie furthest from the class's mean, in standard deviations within classes.

    Args:
        config: which embedding.
        real: class id to the `landmarks` artifact of its training photos.
        synthetic: class id to the `landmarks` artifact of its synthetic images.
        out_dir: an empty folder.
        appearance: of each class, index to what `appearance_distances` says of the image.

    Returns:
        The share of synthetic images with a face, and of those whose true class ranks first.

    Raises:
        InputError: a class has no face in its training photos, or all faces are the same.
    """
    classes = sorted(real)
    tables = {name: _in_order(landmarks.load(real[name])) for name in classes}
    for name, table in tables.items():
        if not table.found.any():
            raise InputError(f"Class {name} has no training photo with a face; leave it out.")
    faces = {name: table.points_px[table.found] for name, table in tables.items()}
    single = [name for name in classes if len(faces[name]) == 1]
    if single:
        logger.warning("a single photo is the prototype of: %s", ", ".join(single))
    labels = [number for number, name in enumerate(classes) for _ in faces[name]]
    everybody = np.concatenate([faces[name] for name in classes])
    population = embeddings.fit(config.embedding, everybody, labels)
    prototypes_CD = np.stack([population.embed(faces[name]).mean(0) for name in classes])
    usual = _Usual({name: measures.measure(faces[name]) for name in classes})
    rows, embedded = [], []
    for own, name in enumerate(classes):
        table = _in_order(landmarks.load(synthetic[name]))
        embedded_ND = population.embed(table.points_px[table.found])
        embedded.append(embedded_ND)
        cosines_NC = embeddings.cosine(embedded_ND, prototypes_CD)
        distances_N = np.linalg.norm(embedded_ND - prototypes_CD[own], axis=1)
        # Strictly nearer classes count, so a tie never hangs on the classes' order.
        ranks_N = 1 + (cosines_NC > cosines_NC[:, own : own + 1]).sum(1)
        away_N = usual.away(name, measures.measure(table.points_px[table.found]))
        values = iter(zip(cosines_NC[:, own], distances_N, ranks_N, away_N, strict=True))
        for image_id, found in zip(table.image_ids, table.found, strict=True):
            told = next(values) if found else _NOTHING
            look = appearance[name].get(int(image_id)) if appearance else None
            rows.append((name, int(image_id), bool(found), *told, look))
    columns = list(zip(*rows, strict=True))
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _RANKING.types, strict=True)]
    table_out = pa.Table.from_arrays(arrays, schema=_RANKING)
    pq.write_table(table_out, out_dir / "ranking.parquet")
    _write_prototypes(classes, faces, prototypes_CD, out_dir)
    _write_embeddings(table_out, np.concatenate(embedded), out_dir)
    found = [row for row in rows if row[2]]
    return {
        "found": len(found) / max(len(rows), 1),
        "top1": sum(row[5] == 1 for row in found) / max(len(found), 1),
    }


def _in_order(table: landmarks.LandmarkTable) -> landmarks.LandmarkTable:
    """By image id: the mean shape begins at the first photo, and sums round by their order."""
    places = sorted(range(len(table.image_ids)), key=table.image_ids.__getitem__)
    ids = tuple(table.image_ids[place] for place in places)
    return landmarks.LandmarkTable(ids, table.found[places], table.points_px[places])


_RANKING = pa.schema(
    [
        ("class_id", pa.string()),
        ("index", pa.int32()),
        ("found", pa.bool_()),
        ("cosine", pa.float64()),
        ("euclidean", pa.float64()),
        ("true_class_rank", pa.int32()),
        ("pulled_away_by", pa.list_(pa.string())),
        # Null where no backbone was asked.
        ("appearance", pa.float64()),
    ]
)
#: Where there is no face.
_NOTHING = (None, None, None, None)
#: A measure that lies less than this many standard deviations off pulls nothing away.
_AWAY_SD = 1.5
_MOST_NAMED = 3


class _Usual:
    """What the training photos measure: a mean for each class, and how far classes spread.

    Args:
        measured: class id to (N, M) measures of its photos.
    """

    def __init__(self, measured: Mapping[str, np.ndarray]) -> None:
        self._means = {name: values.mean(0) for name, values in measured.items()}
        freedom = sum(len(values) - 1 for values in measured.values())
        everything = np.concatenate(list(measured.values()))
        if freedom:
            centred = [values - self._means[name] for name, values in measured.items()]
            spread = np.sqrt((np.concatenate(centred) ** 2).sum(0) / freedom)
        else:
            # One photo of each class: nothing is known but how people differ.
            spread = everything.std(0)
        self._spread = np.maximum(spread, 1e-9)

    def away(self, name: str, measured_NM: np.ndarray) -> list[list[str]]:
        """Of each image, the measures furthest off, such as "nasal width +2.4"."""
        off_NM = (measured_NM - self._means[name]) / self._spread
        furthest_NM = np.argsort(-np.abs(off_NM), axis=1, kind="stable")[:, :_MOST_NAMED]
        return [
            [f"{measures.NAMES[m]} {off[m]:+.1f}" for m in furthest if abs(off[m]) >= _AWAY_SD]
            for off, furthest in zip(off_NM, furthest_NM, strict=True)
        ]


def _write_prototypes(
    classes: list[str], faces: Mapping[str, np.ndarray], prototypes_CD: np.ndarray, out_dir: Path
) -> None:
    table = pa.table(
        {
            "class_id": classes,
            # A prototype of one photo is that photo: whoever reads the report should know.
            "images": [len(faces[name]) for name in classes],
            "embedding": [row.tolist() for row in prototypes_CD],
        }
    )
    pq.write_table(table, out_dir / "prototypes.parquet")


def _write_embeddings(ranking: pa.Table, embedded_ND: np.ndarray, out_dir: Path) -> None:
    """Of every synthetic image with a face, in the order of the ranking."""
    values = pa.array(embedded_ND.astype(np.float32).ravel())
    vectors = pa.FixedSizeListArray.from_arrays(values, embedded_ND.shape[1])
    table = ranking.filter(ranking["found"]).select(["class_id", "index"])
    pq.write_table(table.append_column("embedding", vectors), out_dir / "embeddings.parquet")


def load_embeddings(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By class, of a `ranking` artifact: (N,) index and (N, D) embedding of images with a face."""
    table = pq.read_table(folder / "embeddings.parquet")
    vectors = table["embedding"].combine_chunks()
    embedded_ND = vectors.flatten().to_numpy().reshape(len(vectors), -1).astype(np.float64)
    index_N, class_N = table["index"].to_numpy(), table["class_id"].to_numpy()
    found = {}
    for name in np.unique(class_N):
        own_N = class_N == name
        found[str(name)] = (index_N[own_N], embedded_ND[own_N])
    return found


def appearance_distances(look: Look, photos: Sequence[Path], images: Sequence[Path]) -> list[float]:
    """How far images look from a class's photos: one minus the cosine to the photos' mean features.

    Args:
        look: features of files (`appearance`).
        photos: training photos of the class.
        images: synthetic images.
    """
    mean = look(photos).mean(0, keepdims=True)
    return (1 - embeddings.cosine(look(images), mean)[:, 0]).tolist()
