"""Stable Diffusion 1.5 at its real sizes on a GPU: memory, steps, images, and seconds per class.

    python -m benchmarks.real_sizes

About three minutes on an NVIDIA GPU of 40 GB or more. The weights are random (the real ones need a
model hub), which changes no time. `configs/rdface.yaml` and `configs/rdface-published.yaml` decide
the settings; photos are phantoms of 512 px, learned as they are: landmarks and morphs are a
processor's work, of which `benchmarks.class_cost` tells. Three of the four ways are ours:

    efficient       eight concepts in one batch; images in batches
    kernel_by_kernel    the same, and nothing is recorded and replayed (synth_pipeline/replay.py)
    full            `method: full`, ours
    published       the reference script's loop, and images one at a time (benchmarks/published_way)

The last line is JSON. Of each way `step_ms` and `samples_per_s` of training, `images_per_s` of
sampling (faces are not looked for), `train_gb` and `draw_gb`, the most memory that was allocated,
and `class_s`: the steps and 100 images of one class, computed from these rates (what a class takes
beside, such as its first steps and its file, is not in it). `floor_class_s` is the
arithmetic of the efficient way, counted, over the rate of a large matrix product in bf16, measured:
no version is much faster.
"""

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import published_way
from benchmarks.phantoms import write_photos
from benchmarks.random_base import write_random_base
from synth_pipeline import dreambooth, replay, sampling
from synth_pipeline.base_model import BaseModel
from synth_pipeline.config import StudyConfig, load_config
from synth_pipeline.loaded_base import load_base, load_pipeline

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 100
#: Steps before the clock counts, and steps that count.
WARM, STEPS = 6, 24
PROMPT = "photo of a noonan child"


def main() -> None:
    """Measure and print."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks.real_sizes wants an NVIDIA GPU, and there is none.")
    efficient = load_config(ROOT / "configs" / "rdface.yaml", ["cases.source=."])
    published = load_config(ROOT / "configs" / "rdface-published.yaml", ["cases.source=."])
    figures: dict[str, object] = {"gpu": torch.cuda.get_device_name()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pipeline = write_random_base(folder / "base-made", "cuda")
        at_once = efficient.dreambooth.concepts_at_once
        photos = write_photos(folder, classes=at_once, per_class=4, size_px=512, seed=1)
        bf16 = _Way(efficient, BaseModel(pipeline, "random"), photos, at_once, folder / "bf16")
        figures["efficient"] = bf16.measure()
        figures["tflop_per_s"] = rate = _rate()
        with _kernel_by_kernel():
            bf16.folder = folder / "kernel-by-kernel"
            figures["kernel_by_kernel"] = bf16.measure()
            figures["floor_class_s"] = bf16.tflop_of_a_class() / rate
        load_base.cache_clear()
        fp16 = BaseModel(pipeline, "random", precision="fp16")
        one = dict(list(photos.items())[:1])
        figures["full"] = _Way(published, fp16, one, 1, folder / "full").measure()
        load_base.cache_clear()
        figures["published"] = _published(published, pipeline, next(iter(photos.values())))
    figures["ratio"] = figures["published"]["class_s"] / figures["efficient"]["class_s"]
    print(json.dumps(figures))


class _Way:
    """Ours, with a configuration's settings."""

    def __init__(
        self,
        config: StudyConfig,
        base: BaseModel,
        photos: dict[str, list[Path]],
        at_once: int,
        folder: Path,
    ) -> None:
        self.config, self.base, self.photos = config, base, photos
        self.at_once, self.folder = at_once, folder

    def measure(self) -> dict[str, float]:
        """Memory and rates."""
        ticks, train_gb = _watched(lambda tick: self._train(WARM + STEPS, tick))
        step_s = _median(ticks[WARM:])
        size = self.config.sampling.batch_size
        ticks, draw_gb = _watched(lambda tick: self._draw(5 * size, tick))
        # Told of a batch when the next one is drawn; behind the last nothing is.
        image_s = _median(ticks[:-1]) / size
        return _figures(step_s, self.at_once, train_gb, image_s, draw_gb, self.config)

    def tflop_of_a_class(self) -> float:
        """The floating-point operations of a class's steps and images, in millions of millions."""
        # Of one step: of two without what one and two have in common.
        twice, once = (_tflop(lambda n=n: self._train(n, _nothing)) for n in (2, 1))
        size = self.config.sampling.batch_size
        images = _tflop(lambda: self._draw(size, _nothing)) * IMAGES / size
        return (twice - once) * self.config.dreambooth.steps / self.at_once + images

    def _train(self, steps: int, tick: Callable[..., None]) -> None:
        settings = self.config.dreambooth.model_copy(update={"steps": steps, "morphs": False})
        concepts = []
        for name, images in self.photos.items():
            place = self.folder / f"{name}-{steps}"
            place.mkdir(parents=True)
            concepts.append(dreambooth.Concept(name, name, images, place))
        done = dreambooth.run_together(settings, concepts, base=self.base, seed=0, progress=tick)
        for found in done.values():
            if isinstance(found, Exception):
                raise found
        self.concept = concepts[0]

    def _draw(self, images: int, tick: Callable[..., None]) -> None:
        place = self.folder / f"images-{images}"
        place.mkdir()
        sampling.run(
            self.config.sampling.model_copy(update={"images_per_class": images}),
            class_id=self.concept.class_id,
            class_name=self.concept.class_name,
            prompt=PROMPT,
            concept_dir=self.concept.out_dir,
            base=self.base,
            seed=0,
            out_dir=place,
            progress=tick,
        )


def _published(config: StudyConfig, folder: Path, images: list[Path]) -> dict[str, float]:
    pipeline = load_pipeline(folder).to("cuda")
    ticks, train_gb = _watched(
        lambda tick: published_way.train(
            pipeline,
            images,
            PROMPT,
            method="full",
            steps=WARM + STEPS,
            batch_size=1,
            learning_rate=config.dreambooth.learning_rate,
            rank=0,
            layers=[],
            seed=0,
            precision=torch.float16,
            each_step=tick,
        )
    )
    step_s = _median(ticks[WARM:])
    pipeline = load_pipeline(folder).to("cuda", torch.float16)
    image_s = []

    def draw(_: Callable[..., None]) -> None:
        for _number in range(4):
            begun_s = time.perf_counter()
            published_way.sample(
                pipeline, PROMPT, images=1, steps=config.sampling.steps, guidance=7.5
            )
            image_s.append(time.perf_counter() - begun_s)

    draw_gb = _watched(draw)[1]
    return _figures(step_s, 1, train_gb, statistics.median(image_s), draw_gb, config)


def _figures(
    step_s: float,
    at_once: int,
    train_gb: float,
    image_s: float,
    draw_gb: float,
    config: StudyConfig,
) -> dict[str, float]:
    return {
        "step_ms": step_s * 1000,
        "samples_per_s": at_once * config.dreambooth.batch_size / step_s,
        "train_gb": train_gb,
        "images_per_s": 1 / image_s,
        "draw_gb": draw_gb,
        "class_s": config.dreambooth.steps * step_s / at_once + IMAGES * image_s,
    }


def _median(times: list[float]) -> float:
    return statistics.median(after - before for before, after in pairwise(times))


def _watched(work: Callable[[Callable[..., None]], object]) -> tuple[list[float], float]:
    """When each step ended, and the most memory allocated meanwhile, in gigabytes."""
    times: list[float] = []

    def tick(*_: object) -> None:
        torch.cuda.synchronize()
        times.append(time.perf_counter())

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work(tick)
    return times, torch.cuda.max_memory_allocated() / 1e9


def _nothing(*_: object) -> None:
    """No clock."""


@contextmanager
def _kernel_by_kernel() -> Iterator[None]:
    warm, replay._WARM = replay._WARM, sys.maxsize
    try:
        yield
    finally:
        replay._WARM = warm


def _tflop(work: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def _rate() -> float:
    """Of a product of two matrices of 8192 x 8192 random numbers in bf16, TFLOP/s."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for times in (3, 10):
        torch.cuda.synchronize()
        begun_s = time.perf_counter()
        for _ in range(times):
            a @ b
        torch.cuda.synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - begun_s) / 1e12


if __name__ == "__main__":
    main()
