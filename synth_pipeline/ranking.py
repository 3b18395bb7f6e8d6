"""Prototypes of real training photos, and how near each synthetic image lies to them.

Held-out photos have no part in a prototype, though the published protocol lets them in: a test
photo that shaped the choice of training images would be no test.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline import embeddings, landmarks
from synth_pipeline.config import RankingConfig
from synth_pipeline.errors import InputError


def run(
    config: RankingConfig,
    *,
    real: Mapping[str, Path],
    synthetic: Mapping[str, Path],
    out_dir: Path,
) -> dict[str, float]:
    """Write `ranking.parquet` and `prototypes.parquet`.

    Args:
        config: which embedding.
        real: class id to the `landmarks` artifact of its training photos.
        synthetic: class id to the `landmarks` artifact of its synthetic images.
        out_dir: an empty folder.

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
    labels = [number for number, name in enumerate(classes) for _ in faces[name]]
    everybody = np.concatenate([faces[name] for name in classes])
    population = embeddings.fit(config.embedding, everybody, labels)
    prototypes_CD = np.stack([population.embed(faces[name]).mean(0) for name in classes])
    rows = []
    for own, name in enumerate(classes):
        table = _in_order(landmarks.load(synthetic[name]))
        embedded_ND = population.embed(table.points_px[table.found])
        cosines_NC = embeddings.cosine(embedded_ND, prototypes_CD)
        distances_N = np.linalg.norm(embedded_ND - prototypes_CD[own], axis=1)
        # Strictly nearer classes count, so a tie never hangs on the classes' order.
        ranks_N = 1 + (cosines_NC > cosines_NC[:, own : own + 1]).sum(1)
        values = iter(zip(cosines_NC[:, own], distances_N, ranks_N, strict=True))
        for image_id, found in zip(table.image_ids, table.found, strict=True):
            cosine, distance, rank = next(values) if found else (None, None, None)
            rows.append((name, int(image_id), bool(found), cosine, distance, rank))
    columns = list(zip(*rows, strict=True))
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _RANKING.types, strict=True)]
    table_out = pa.Table.from_arrays(arrays, schema=_RANKING)
    pq.write_table(table_out, out_dir / "ranking.parquet")
    _write_prototypes(classes, faces, prototypes_CD, out_dir)
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
    ]
)


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
