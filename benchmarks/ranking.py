"""Embeddings, the copy audit and selection: do they find what they should, and at which cost.

    python -m benchmarks.ranking [--faces FOLDER]

About four minutes on two cores. FOLDER holds `lfw40/` and `london102/`; without it (by default
../shared/faces) the figures of real photos are null. The last line is JSON:

    phantom_top1            held-out phantoms of `phantom-20` whose nearest prototype (five shots)
                            is their condition's, by the default embedding
    phantom_share           the same as a share of what true shape gives, the upper bound
    five_point_top1         the same by the published 25 distances
    faces_top1              held-out photos of 40 people, five shots (mean of six draws)
    faces_five_point_top1   the same by the published distances
    copies_recall           planted copies found: photos of 40 people, each resized, recompressed,
                            mirrored, warped and recoloured (of phantoms, without FOLDER)
    copies_false_alarms     102 other people taken for copies (of phantoms, without FOLDER)
    phantom_copies_recall, phantom_copies_false_alarms  the same of 100 phantoms and 500 others
    selection_seconds       `diverse`, 8,000 of 100,000 candidates of 103 classes
    selection_peak_mb       resident memory of a process that does only that
    selection_growth        exponent of its seconds in the number of candidates, 25,000 to 100,000
"""

import argparse
import csv
import io
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from synth_pipeline import copies, landmarks, selection
from synth_pipeline.config import CopiesConfig, RankingConfig
from synth_pipeline.models import face_landmarker_path
from synth_pipeline.phantom.reference import nearest_prototype, reference_figures
from synth_pipeline.phantom.sets import BENCHMARKS

FACES = Path(__file__).resolve().parent.parent.parent / "shared" / "faces"
SHOTS, DRAWS = 5, 6
SELECTED, CANDIDATES, CLASSES, DIRECTIONS = 8_000, (25_000, 50_000, 100_000), 103, 60


def main() -> None:
    """Measure everything and print the figures."""
    parser = argparse.ArgumentParser(description="Ranking, copy audit and selection.")
    parser.add_argument("--faces", type=Path, default=FACES, help="lfw40/ and london102/")
    faces = parser.parse_args().faces
    model = face_landmarker_path()
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        figures |= _phantoms(folder / "phantoms", model)
        _say("phantoms done")
        people = faces / "lfw40"
        if people.is_dir():
            figures |= _people(people, faces / "london102", folder / "people", model)
        else:
            figures |= {"faces_top1": None, "faces_five_point_top1": None}
            for name in ("copies_recall", "copies_false_alarms"):
                figures[name] = figures[f"phantom_{name}"]
        _say("copies done")
        figures |= _selection(folder / "selection")
    print(json.dumps(figures))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _phantoms(folder: Path, model: Path) -> dict[str, float]:
    made, found = folder / "set", folder / "landmarks"
    BENCHMARKS["phantom-20"].make(made, mesh_path=model)
    found.mkdir()
    known = reference_figures(made, landmark_model=model, scratch=found)
    default = known[RankingConfig().embedding.replace("-", "_")]
    with (made / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    files = [made / row["file"] for row in rows]
    table = landmarks.load(found)
    training = np.array([row["split"] == "train" for row in rows])
    photos = [path for path, own in zip(files, training, strict=True) if own]
    others = [path for path, own in zip(files, training, strict=True) if not own]
    recall, alarms = _copies(
        photos,
        table.points_px[training],
        [str(number) for number in range(len(photos))],
        (others, table.points_px[~training]),
        folder / "planted",
        model,
    )
    return {
        "phantom_top1": default,
        "phantom_share": default / known["true_shape"],
        "five_point_top1": known["five_point"],
        "phantom_copies_recall": recall,
        "phantom_copies_false_alarms": alarms,
    }


def _people(people: Path, strangers: Path, folder: Path, model: Path) -> dict[str, float]:
    files = sorted(people.glob("*/*.jpg"))
    names = sorted({path.parent.name for path in files})
    labels = np.array([names.index(path.parent.name) for path in files])
    table = _found(files, folder / "people", model)
    top1: dict[str, list[float]] = {"combined": [], "five-point": []}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        training = np.zeros(len(files), bool)
        for label in range(len(names)):
            training[rng.permutation(np.flatnonzero(labels == label))[:SHOTS]] = True
        for embedding in ("combined", "five-point"):
            top1[embedding].append(nearest_prototype(embedding, table, labels, training))
    # The first photos of each, in the order of their names.
    each = [np.flatnonzero(labels == label)[:SHOTS] for label in range(len(names))]
    firsts = np.concatenate(each)
    others = sorted(strangers.glob("*.jpg"))
    recall, alarms = _copies(
        [files[place] for place in firsts],
        table.points_px[firsts],
        [names[labels[place]] for place in firsts],
        (others, _found(others, folder / "others", model).points_px),
        folder / "planted",
        model,
    )
    return {
        "faces_top1": float(np.mean(top1["combined"])),
        "faces_five_point_top1": float(np.mean(top1["five-point"])),
        "copies_recall": recall,
        "copies_false_alarms": alarms,
    }


def _found(files: Sequence[Path], out_dir: Path, model: Path) -> landmarks.LandmarkTable:
    out_dir.mkdir(parents=True)
    landmarks.run(
        [(str(number), path) for number, path in enumerate(files)],
        model=model,
        out_dir=out_dir,
        class_id=out_dir.name,
        real_photos=True,
    )
    return landmarks.load(out_dir)


def _copies(
    photos: Sequence[Path],
    points_px: np.ndarray,
    subjects: Sequence[str],
    others: tuple[Sequence[Path], np.ndarray],
    folder: Path,
    model: Path,
) -> tuple[float, float]:
    """Share of planted copies found, and of other people taken for copies."""
    rng = np.random.default_rng(5)
    folder.mkdir()
    planted = []
    for number, path in enumerate(photos):
        with Image.open(path) as opened:
            for change, picture in _changed(opened.convert("RGB"), rng):
                planted.append(folder / f"{number:04d}-{change}.png")
                picture.save(planted[-1])
    planted_px = _found(planted, folder / "landmarks", model).points_px
    shares = []
    for files, places_px in ((planted, planted_px), others):
        out_dir = folder / f"audit-{len(shares)}"
        real, made = out_dir / "real", out_dir / "made"
        for place, ids, values in (
            (real, [str(n) for n in range(len(photos))], points_px),
            (made, [f"{n:05d}" for n in range(len(files))], places_px),
        ):
            place.mkdir(parents=True)
            _write_landmarks(place, ids, values)
        done = copies.run(
            CopiesConfig(),
            real={"all": [(str(n), subjects[n], path) for n, path in enumerate(photos)]},
            synthetic={"all": list(enumerate(files))},
            real_landmarks={"all": real},
            synthetic_landmarks={"all": made},
            landmark_model=model,
            out_dir=out_dir,
        )
        shares.append(done["copies"] / done["images"])
    return shares[0], shares[1]


def _write_landmarks(folder: Path, ids: Sequence[str], points_px: np.ndarray) -> None:
    found = ~np.isnan(points_px[:, 0, 0])
    rows = [
        {"image_id": name, "found": bool(there), "points": points.ravel() if there else None}
        for name, there, points in zip(ids, found, points_px, strict=True)
    ]
    kinds = [("image_id", pa.string()), ("found", pa.bool_()), ("points", pa.list_(pa.float32()))]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(kinds)), folder / "landmarks.parquet")


def _changed(picture: Image.Image, rng: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """What a copy may look like; sizes, qualities, angles and colours are drawn."""
    side = int(picture.width * rng.uniform(0.4, 0.8))
    yield "resized", picture.resize((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=int(rng.integers(15, 50)))
    yield "recompressed", Image.open(stream).convert("RGB")
    yield "mirrored", ImageOps.mirror(picture)
    angle, scale = np.deg2rad(rng.uniform(-4, 4)), rng.uniform(0.95, 1.08)
    a, b = np.cos(angle) / scale, np.sin(angle) / scale
    shear = rng.uniform(-0.03, 0.03, 2)
    x, y = picture.width / 2, picture.height / 2
    matrix = (
        a,
        b + shear[0],
        x - a * x - (b + shear[0]) * y,
        shear[1] - b,
        a,
        y - a * y - (shear[1] - b) * x,
    )
    grey = tuple(int(value) for value in np.asarray(picture).reshape(-1, 3).mean(0))
    yield (
        "warped",
        picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            matrix,
            Image.Resampling.BICUBIC,
            fillcolor=grey,
        ),
    )
    shifted = np.asarray(picture) * rng.uniform(0.75, 1.25, 3) + rng.uniform(-20, 20, 3)
    yield "recoloured", Image.fromarray(shifted.clip(0, 255).astype(np.uint8))


def _selection(folder: Path) -> dict[str, float]:
    seconds, peak_mb = {}, 0.0
    for count in CANDIDATES:
        place = folder / str(count)
        place.mkdir(parents=True)
        _write_candidates(place, count)
        # A process of its own, whose memory is that of the selection.
        processes = get_context("spawn")
        ours, theirs = processes.Pipe()
        process = processes.Process(target=_select, args=(theirs, place, count))
        process.start()
        theirs.close()
        seconds[count], peak_mb = ours.recv()
        process.join()
        _say(f"{SELECTED} of {count} candidates: {seconds[count]:.1f} s, {peak_mb:.0f} MB")
    small, _, large = CANDIDATES
    return {
        "selection_seconds": seconds[large],
        "selection_peak_mb": peak_mb,
        "selection_growth": math.log(seconds[large] / seconds[small]) / math.log(large / small),
    }


def _write_candidates(folder: Path, count: int) -> None:
    """Candidates in clusters, as the images of a class are, with what selection reads of them."""
    rng = np.random.default_rng(0)
    classes = np.sort(rng.integers(0, CLASSES, count))
    names = [f"class-{number:03d}" for number in classes]
    index = np.concatenate([np.arange(n) for n in np.bincount(classes, minlength=CLASSES)])
    centres = rng.normal(size=(CLASSES, 8, DIRECTIONS))
    vectors = centres[classes, rng.integers(0, 8, count)] + 0.5 * rng.normal(
        size=(count, DIRECTIONS)
    )
    common = {"class_id": pa.array(names), "index": pa.array(index, pa.int32())}
    table = pa.table(
        {
            **common,
            "found": pa.array(np.full(count, True)),
            "cosine": pa.array(rng.uniform(0, 1, count)),
            "true_class_rank": pa.array(rng.integers(1, 4, count), pa.int32()),
        }
    )
    pq.write_table(table, folder / "ranking.parquet")
    table = pa.table(
        {
            **common,
            "copy": pa.array(np.full(count, False)),
            "perceptual_hash": pa.array(rng.integers(0, 2**64, count, dtype=np.uint64)),
        }
    )
    pq.write_table(table, folder / "copies.parquet")
    flat = pa.array(vectors.astype(np.float32).ravel())
    listed = pa.FixedSizeListArray.from_arrays(flat, DIRECTIONS)
    pq.write_table(pa.table({**common, "embedding": listed}), folder / "embeddings.parquet")


def _select(answer: Connection, folder: Path, count: int) -> None:
    table = pq.read_table(folder / "ranking.parquet", columns=["class_id", "index"])
    images = zip(table["class_id"].to_pylist(), table["index"].to_pylist(), strict=True)
    sha256 = {place: f"{number:064x}" for number, place in enumerate(images)}
    begun_s = time.perf_counter()
    selection.run(
        "diverse",
        scales=(2_000, 4_000, SELECTED),
        ranking_dir=folder,
        copies_dir=folder,
        sha256=sha256,
        out_dir=folder,
    )
    seconds = time.perf_counter() - begun_s
    answer.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


if __name__ == "__main__":
    main()
