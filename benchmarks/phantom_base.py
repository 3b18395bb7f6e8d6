"""How good the phantoms and the embedded base model are.

    python -m benchmarks.phantom_base [--keep DIR] [--into-card]

About twenty minutes on two cores. The last line is JSON:

    detection_rate          share of 200 samples of the base with a face; random captions
    rendered_detection_rate the same for 400 rendered phantoms
    prototype_top1          share of DreamBooth samples whose nearest prototype is their condition's
                            (12 conditions, 4 images and 24 samples each; no face counts as wrong)
    median_rank             of the true condition among the 12
    landmark_shift          what the autoencoder does to landmarks, as a share of the distance
                            between the outer corners of the eyes (median of 200 phantoms)
    render_ratio            images per second, ours over the prototype's; null without ../shared

`--keep DIR` leaves the contact sheet and all pictures there; `--into-card` writes the figures into
the embedded base's model card.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.phantoms import find_landmarks, write_photos
from synth_pipeline import dreambooth, landmarks, ranking, sampling
from synth_pipeline.base_model import BaseModel, resolve_base
from synth_pipeline.config import StudyConfig, load_config
from synth_pipeline.loaded_base import load_base
from synth_pipeline.models import face_landmarker_path
from synth_pipeline.phantom.dataset import PhantomRenderer, random_person
from synth_pipeline.store import file_sha256

ROOT = Path(__file__).resolve().parent.parent
PROTOTYPE = ROOT.parent / "shared" / "phantom" / "prototype.py"
BASE_PX = 128
#: Not the seed of any training: none of these people or conditions was seen before.
SEED = 7777
CONDITIONS, SHOTS, SAMPLES = 12, 4, 24
EYE_CORNERS = (33, 263)


def main() -> None:
    """Measure everything and print the figures."""
    options = _options()
    config = load_config(ROOT / "configs" / "phantom-20.yaml")
    model = face_landmarker_path()
    renderer = PhantomRenderer(model)
    base = resolve_base(config.dreambooth.base_model)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        sheet: list[list[Image.Image]] = []
        figures = {
            "detection_rate": _sampled(config, base, renderer, model, sheet),
            "rendered_detection_rate": _rendered(renderer, model, sheet),
            **_dreambooth(config, base, model, folder, sheet),
            "landmark_shift": _landmark_shift(base, renderer, model),
            "render_ratio": _render_ratio(renderer, model),
        }
        _contact_sheet(sheet).save(folder / "contact-sheet.png")
    if options.into_card:
        _into_card(base.folder, figures)
    print(json.dumps(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure phantoms and the embedded base model.")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--into-card", action="store_true")
    return parser.parse_args()


def _people(renderer: PhantomRenderer, count: int, size_px: int, stream: int) -> Iterator:
    """Pictures and captions of people whom no training saw."""
    for index in range(count):
        yield random_person(np.random.default_rng([SEED, stream, index]), renderer, size_px)


def _sampled(
    config: StudyConfig,
    base: BaseModel,
    renderer: PhantomRenderer,
    model: Path,
    sheet: list[list[Image.Image]],
) -> float:
    pipeline = load_base(base).pipeline
    pictures: list[Image.Image] = []
    captions = [caption for _, caption in _people(renderer, 200, BASE_PX, 1)]
    for start in range(0, len(captions), 20):
        generators = [torch.Generator().manual_seed(SEED + start + i) for i in range(20)]
        pictures += pipeline(
            captions[start : start + 20],
            num_inference_steps=config.sampling.steps,
            guidance_scale=config.sampling.guidance_scale,
            generator=generators,
        ).images
        _say(f"base samples: {len(pictures)}/{len(captions)}")
    sheet.append(pictures[:12])
    return _share_found(_points(pictures, model))


def _rendered(renderer: PhantomRenderer, model: Path, sheet: list[list[Image.Image]]) -> float:
    pictures = [picture for picture, _ in _people(renderer, 400, 256, 2)]
    sheet.insert(0, pictures[:12])
    return _share_found(_points(pictures, model))


def _dreambooth(
    config: StudyConfig, base: BaseModel, model: Path, folder: Path, sheet: list[list[Image.Image]]
) -> dict[str, float]:
    photos = write_photos(folder, classes=CONDITIONS, per_class=SHOTS, size_px=BASE_PX, seed=SEED)
    tuning = config.dreambooth
    drawing = config.sampling.model_copy(update={"images_per_class": SAMPLES})
    real, synthetic = {}, {}
    begun_s = time.monotonic()
    for done, (name, files) in enumerate(photos.items(), start=1):
        stages = {s: folder / name / s for s in ("concept", "samples", "real", "synthetic")}
        for stage in stages.values():
            stage.mkdir(parents=True)
        dreambooth.run(
            tuning,
            class_id=name,
            class_name=name,
            images=files,
            base=base,
            seed=SEED,
            out_dir=stages["concept"],
            points_px=find_landmarks(files, model, stages["real"], name, real_photos=True),
        )
        sampling.run(
            drawing,
            class_id=name,
            class_name=name,
            prompt=tuning.instance_prompt.format(class_name=name),
            concept_dir=stages["concept"],
            base=base,
            seed=SEED,
            out_dir=stages["samples"],
        )
        made = sorted((stages["samples"] / "images").glob("*.png"))
        find_landmarks(made, model, stages["synthetic"], name, real_photos=False)
        real[name], synthetic[name] = stages["real"], stages["synthetic"]
        if done <= 4:
            sheet.append([Image.open(p).convert("RGB") for p in (*files, *made[:8])])
        _say(f"DreamBooth: condition {done}/{CONDITIONS}, {time.monotonic() - begun_s:.0f} s")
    ranked = folder / "ranking"
    ranked.mkdir()
    ranking.run(config.ranking, real=real, synthetic=synthetic, out_dir=ranked)
    ranks = pq.read_table(ranked / "ranking.parquet")["true_class_rank"].to_pylist()
    # Without a face there is nothing near the prototype.
    ranks = [CONDITIONS if rank is None else rank for rank in ranks]
    return {
        "prototype_top1": float(np.mean([rank == 1 for rank in ranks])),
        "median_rank": float(np.median(ranks)),
        "seconds_per_class": (time.monotonic() - begun_s) / CONDITIONS,
    }


def _landmark_shift(base: BaseModel, renderer: PhantomRenderer, model: Path) -> float:
    autoencoder = load_base(base).pipeline.vae
    pictures = [picture for picture, _ in _people(renderer, 200, BASE_PX, 3)]
    given_back = []
    for picture in pictures:
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            y = autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample[0]
        pixels = (y.clamp(-1, 1) + 1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
        given_back.append(Image.fromarray(pixels))
    shifts = []
    for before, after in zip(_points(pictures, model), _points(given_back, model), strict=True):
        if before is None or after is None:
            shifts.append(np.inf)
            continue
        apart = np.linalg.norm(before[EYE_CORNERS[0], :2] - before[EYE_CORNERS[1], :2])
        shifts.append(float(np.linalg.norm(before[:, :2] - after[:, :2], axis=1).mean() / apart))
    return float(np.median(shifts))


def _render_ratio(renderer: PhantomRenderer, model: Path) -> float | None:
    """Both in turn, in this process, at 256 px; the median of five rounds."""
    if not PROTOTYPE.is_file():
        return None
    prototype = _load(PROTOTYPE)
    vertices, _, triangles = prototype.canonical(str(model))

    def theirs(round_number: int) -> None:
        for index in range(10):
            prototype.sample(vertices, triangles, round_number, index, 256)

    def ours(round_number: int) -> None:
        for index in range(10):
            random_person(np.random.default_rng([SEED, 4, round_number, index]), renderer, 256)

    def seconds(work: Callable[[int], None], round_number: int) -> float:
        begun_s = time.perf_counter()
        work(round_number)
        return time.perf_counter() - begun_s

    return float(np.median([seconds(theirs, r) / seconds(ours, r) for r in range(5)]))


def _load(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("prototype", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _points(pictures: list[Image.Image], model: Path) -> list[np.ndarray | None]:
    """(478, 3) landmarks of each picture, or none, found as the `landmarks` stage finds them."""
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for number, picture in enumerate(pictures):
            files.append((str(number), Path(scratch) / f"{number}.png"))
            picture.save(files[-1][1])
        landmarks.run(
            files, model=model, out_dir=Path(scratch), class_id="pictures", real_photos=False
        )
        table = landmarks.load(Path(scratch))
    return [p if found else None for p, found in zip(table.points_px, table.found, strict=True)]


def _share_found(points: list[np.ndarray | None]) -> float:
    return sum(p is not None for p in points) / len(points)


def _contact_sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Rendered phantoms, base samples, then a row for each condition: 4 real and 8 synthetic."""
    sheet = Image.new("RGB", (12 * BASE_PX, len(rows) * BASE_PX), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            small = picture.resize((BASE_PX, BASE_PX), Image.Resampling.LANCZOS)
            sheet.paste(small, (x * BASE_PX, y * BASE_PX))
    return sheet


def _into_card(folder: Path, figures: dict[str, float | None]) -> None:
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8").split("\n## Measured\n")[0].rstrip()
    lines = [f"| `{name}` | {value:.4g} |" for name, value in figures.items() if value is not None]
    text += "\n\n## Measured\n\n`python -m benchmarks.phantom_base` on two cores, with the UNet "
    text += f"`{file_sha256(folder / 'unet' / 'diffusion_pytorch_model.safetensors')[:16]}`; what "
    text += "each figure is, its docstring says.\n\n| figure | value |\n|---|---|\n"
    card.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
