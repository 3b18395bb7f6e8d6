"""What a class costs, ours against the published way, and what comes of it.

    python -m benchmarks.class_cost [--base FOLDER] [--picture FILE]

About half an hour on two cores. Three conditions of phantoms that the base never saw, four photos
of each. Both ways learn from the same number of pictures (1,000) and draw 100 images of each class:

* the published way: UNet and text encoder in full, one picture a step, constant rate; images one
  at a time, 30 steps, guidance scale 7.5. The rate is the best of three for this base (of 3e-5,
  1e-4 and 3e-4; the published 1e-6 was found for another base, and a smaller one wants more);
* ours: `configs/phantom-20.yaml`, with the classes in one batch; finding the landmarks that morphs
  need is part of it.

The last line is JSON; `ratio` is seconds per class, theirs over ours; for each way, how many images
show a face, the share whose nearest of twelve prototypes is their own, the mean rank of their own
(no face counts as last), and their `spread`: how far they lie from the mean of their class, as a
share of what the photos do (cheaper images that are all alike would be no gain).

Images that repeat a photo are nearest to their prototype without fail, and may not be used. So for
each way also the share that the copy audit withholds, the share that is `usable` (neither withheld
nor nearer to another prototype), and the seconds for one such image. `--picture` shows of each
condition the four photos, then images of the published way, then as many of ours.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks import published_way
from benchmarks.phantoms import find_landmarks, write_photos
from synth_pipeline import copies, dreambooth, embeddings, landmarks, ranking, sampling
from synth_pipeline.base_model import BaseModel, resolve_base
from synth_pipeline.config import StudyConfig, load_config
from synth_pipeline.loaded_base import load_base, load_pipeline
from synth_pipeline.models import face_landmarker_path

ROOT = Path(__file__).resolve().parent.parent
#: As in `benchmarks.phantom_base`: not the seed of any training.
SEED = 7777
CONDITIONS, TUNED, SHOTS, IMAGES = 12, 3, 4, 100
PUBLISHED_RATE = 1e-4


def main() -> None:
    """Measure both ways and print."""
    parser = argparse.ArgumentParser(description="Seconds per class, and quality.")
    parser.add_argument("--base", default="embedded", help="a folder in diffusers' format")
    parser.add_argument("--rate", type=float, default=PUBLISHED_RATE, help="of the published way")
    parser.add_argument("--picture", type=Path, help="a file to draw photos and images into")
    options = parser.parse_args()
    config = load_config(ROOT / "configs" / "phantom-20.yaml")
    base = resolve_base(options.base)
    model = face_landmarker_path()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = write_photos(folder, classes=CONDITIONS, per_class=SHOTS, size_px=128, seed=SEED)
        tuned = dict(list(photos.items())[:TUNED])
        # Everything that is loaded once in a study is loaded before either is timed.
        load_base(base)
        # Ours in the middle of theirs: a machine that grows faster or slower favours nobody.
        half = len(tuned) // 2
        parts = [dict(list(tuned.items())[:half]), dict(list(tuned.items())[half:])]
        rate, theirs = options.rate, folder / "theirs"
        theirs_s = _timed(lambda: _theirs(config, base, parts[0], rate, theirs))
        ours_s = _timed(lambda: _ours(config, base, tuned, model, folder / "ours"))
        theirs_s += _timed(lambda: _theirs(config, base, parts[1], rate, theirs))
        figures = {"ratio": theirs_s / ours_s, "published_s": theirs_s, "ours_s": ours_s}
        for way in ("theirs", "ours"):
            made = {name: folder / way / name / "images" for name in tuned}
            name = "published" if way == "theirs" else way
            for what, value in _quality(config, photos, made, model, folder / f"{way}-q").items():
                figures[f"{name}_{what}"] = value
            usable = IMAGES * figures[f"{name}_usable"]
            figures[f"{name}_s_per_usable"] = figures[f"{name}_s"] / usable if usable else None
        if options.picture:
            _draw(tuned, folder, options.picture)
    print(json.dumps(figures))


def _draw(photos: dict[str, list[Path]], folder: Path, file: Path) -> None:
    """One condition a row: its photos, the published way's first images, our first ones."""
    side_px, gap_px, shown = 128, 12, 6
    wide = (SHOTS + 2 * shown) * side_px + 2 * gap_px
    sheet = Image.new("RGB", (wide, len(photos) * side_px), "white")
    for row, (name, images) in enumerate(photos.items()):
        left = 0
        for kind in (
            images,
            *(sorted((folder / way / name / "images").glob("*.png")) for way in ("theirs", "ours")),
        ):
            for path in kind[:shown]:
                with Image.open(path) as image:
                    sheet.paste(image.convert("RGB"), (left, row * side_px))
                left += side_px
            left += gap_px
    sheet.save(file, quality=85)


def _timed(work) -> float:
    """Seconds of work, per class of the benchmark."""
    begun_s = time.perf_counter()
    work()
    return (time.perf_counter() - begun_s) / TUNED


def _theirs(
    config: StudyConfig,
    base: BaseModel,
    photos: dict[str, list[Path]],
    rate: float,
    folder: Path,
) -> None:
    tuning = config.dreambooth
    for name, images in photos.items():
        # One script a class: the base is read anew.
        pipeline = load_pipeline(base.folder)
        prompt = tuning.instance_prompt.format(class_name=name)
        published_way.train(
            pipeline,
            images,
            prompt,
            method="full",
            steps=tuning.steps * tuning.batch_size,
            batch_size=1,
            learning_rate=rate,
            rank=0,
            layers=[],
            seed=SEED,
        )
        pipeline.unet.eval()
        pipeline.text_encoder.eval()
        with torch.no_grad():
            made = published_way.sample(pipeline, prompt, images=IMAGES, steps=30, guidance=7.5)
        place = folder / name / "images"
        place.mkdir(parents=True)
        for index, picture in enumerate(made):
            picture.save(place / f"{index:05d}.png")
        print(f"published way: {name}", file=sys.stderr, flush=True)


def _ours(
    config: StudyConfig,
    base: BaseModel,
    photos: dict[str, list[Path]],
    model: Path,
    folder: Path,
) -> None:
    concepts = []
    for name, images in photos.items():
        out_dir, found = folder / name / "concept", folder / name / "landmarks"
        for place in (out_dir, found):
            place.mkdir(parents=True)
        points_px = find_landmarks(images, model, found, name, real_photos=True)
        concepts.append(dreambooth.Concept(name, name, images, out_dir, points_px=points_px))
    dreambooth.run_together(config.dreambooth, concepts, base=base, seed=SEED)
    drawing = config.sampling.model_copy(update={"images_per_class": IMAGES})
    for concept in concepts:
        sampling.run(
            drawing,
            class_id=concept.class_id,
            class_name=concept.class_name,
            prompt=config.dreambooth.instance_prompt.format(class_name=concept.class_name),
            concept_dir=concept.out_dir,
            base=base,
            seed=SEED,
            out_dir=folder / concept.class_id,
        )
        print(f"ours: {concept.class_id}", file=sys.stderr, flush=True)


def _quality(
    config: StudyConfig,
    photos: dict[str, list[Path]],
    made: dict[str, Path],
    model: Path,
    folder: Path,
) -> dict[str, float]:
    real, synthetic = {}, {}
    for name, images in photos.items():
        drawn = sorted(made[name].glob("*.png")) if name in made else []
        for stage, files, into in (("real", images, real), ("synthetic", drawn, synthetic)):
            into[name] = folder / stage / name
            into[name].mkdir(parents=True)
            find_landmarks(files, model, into[name], name, real_photos=stage == "real")
    ranked = folder / "ranking"
    ranked.mkdir()
    ranking.run(config.ranking, real=real, synthetic=synthetic, out_dir=ranked)
    table = pq.read_table(ranked / "ranking.parquet").to_pylist()
    ranks = [row["true_class_rank"] for row in table]
    nearest = {(row["class_id"], row["index"]) for row in table if row["true_class_rank"] == 1}
    withheld = _copies(config, photos, made, real, synthetic, model, folder / "copies")
    points = {name: _points(folder) for name, folder in real.items()}
    labels = [number for number, faces in enumerate(points.values()) for _ in faces]
    population = embeddings.fit(
        config.ranking.embedding, np.concatenate(list(points.values())), labels
    )
    drawn_spread = np.mean([_spread(population.embed(_points(synthetic[name]))) for name in made])
    photo_spread = np.mean([_spread(population.embed(points[name])) for name in made])
    return {
        "spread": float(drawn_spread / photo_spread),
        "faces": float(np.mean([rank is not None for rank in ranks])),
        "top1": float(np.mean([rank == 1 for rank in ranks])),
        "mean_rank": float(np.mean([CONDITIONS if rank is None else rank for rank in ranks])),
        "withheld": len(withheld) / len(ranks),
        "usable": len(nearest - withheld) / len(ranks),
    }


def _copies(
    config: StudyConfig,
    photos: dict[str, list[Path]],
    made: dict[str, Path],
    real: dict[str, Path],
    synthetic: dict[str, Path],
    model: Path,
    folder: Path,
) -> set[tuple[str, int]]:
    """Class and index of the images that the copy audit withholds."""
    folder.mkdir()
    copies.run(
        config.copies,
        # Every phantom is a person of its own.
        real={
            name: [(path.stem, f"{name} {path.stem}", path) for path in files]
            for name, files in photos.items()
        },
        synthetic={
            name: [(int(path.stem), path) for path in sorted(place.glob("*.png"))]
            for name, place in made.items()
        },
        real_landmarks=real,
        synthetic_landmarks={name: synthetic[name] for name in made},
        landmark_model=model,
        out_dir=folder,
    )
    rows = pq.read_table(folder / "copies.parquet").to_pylist()
    return {(row["class_id"], row["index"]) for row in rows if row["copy"] is not False}


def _points(folder: Path) -> np.ndarray:
    table = landmarks.load(folder)
    return table.points_px[table.found]


def _spread(embedded_ND: np.ndarray) -> float:
    """Root mean square distance from the mean, as a sample's standard deviation is taken."""
    squared = ((embedded_ND - embedded_ND.mean(0)) ** 2).sum()
    return float(np.sqrt(squared / (len(embedded_ND) - 1)))


if __name__ == "__main__":
    main()
