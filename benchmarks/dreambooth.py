"""Training steps per second and peak memory, ours against the published way, side by side.

    python -m benchmarks.dreambooth [--base FOLDER]

About seven minutes on two cores. Both train the same weights on the same photos with the same
batch (1, as published) and the same precision, in a process of their own each, in turn, five
rounds. The last line is JSON:

    lora_ratio      steps per second, ours over the published way's: adapters on the attention;
                    ours are the steps of several classes that learn in one batch
    lora_alone_ratio    the same for one class alone
    full_ratio      the same for UNet and text encoder in full
    memory_ratio    the largest resident memory until the last step, ours over theirs, the worst of
                    the three
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

ROUNDS = 5
WARM, STEPS = 10, 100
RANK = 4
CONCEPTS = 4


def main() -> None:
    """Measure and print."""
    from benchmarks.phantoms import write_photos

    parser = argparse.ArgumentParser(description="Training speed and memory.")
    parser.add_argument("--base", default="embedded", help="a folder in diffusers' format")
    base = parser.parse_args().base
    with tempfile.TemporaryDirectory() as scratch:
        photos = write_photos(Path(scratch), classes=CONCEPTS, per_class=4, size_px=256, seed=1)
        ways = [("lora", 0), ("lora", 1), ("lora", CONCEPTS), ("full", 0), ("full", 1)]
        speed: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
        memory: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
        for number in range(ROUNDS):
            for way in ways:
                steps_per_s, peak_mb = _apart(base, photos, *way)
                speed[way].append(steps_per_s)
                memory[way].append(peak_mb)
                name = f"{way[0]}, {f'{way[1]} at once' if way[1] else 'the published way'}"
                print(
                    f"round {number + 1}: {name}: {steps_per_s:.2f} steps/s, {peak_mb:.0f} MB",
                    file=sys.stderr,
                    flush=True,
                )

    def ratio(ours: tuple[str, int], figures: dict[tuple[str, int], list[float]]) -> float:
        pairs = zip(figures[ours], figures[ours[0], 0], strict=True)
        return statistics.median(our / their for our, their in pairs)

    print(
        json.dumps(
            {
                "lora_ratio": ratio(("lora", CONCEPTS), speed),
                "lora_alone_ratio": ratio(("lora", 1), speed),
                "full_ratio": ratio(("full", 1), speed),
                "memory_ratio": max(ratio(way, memory) for way in ways if way[1]),
            }
        )
    )


def _apart(
    base: str, photos: dict[str, list[Path]], method: str, at_once: int
) -> tuple[float, float]:
    """Steps per second and peak memory in MB of one way, in a fresh process."""
    processes = get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_measure, args=(theirs, base, photos, method, at_once))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def _measure(
    answer: Connection, base: str, photos: dict[str, list[Path]], method: str, at_once: int
) -> None:
    times: list[float] = []
    peak_mb = 0.0

    def tick(*_: object) -> None:
        nonlocal peak_mb
        times.append(time.perf_counter())
        # As of the last step: what is written afterwards is no training.
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    if at_once:
        _ours(base, photos, method, at_once, tick)
    else:
        _theirs(base, photos, method, tick)
    steps_per_s = (len(times) - WARM) * max(at_once, 1) / (times[-1] - times[WARM - 1])
    answer.send((steps_per_s, peak_mb))


def _ours(base: str, photos: dict[str, list[Path]], method: str, at_once: int, tick) -> None:
    from synth_pipeline import dreambooth
    from synth_pipeline.base_model import resolve_base
    from synth_pipeline.config import DreamBoothConfig

    with tempfile.TemporaryDirectory() as scratch:
        concepts = []
        for name, images in list(photos.items())[:at_once]:
            out_dir = Path(scratch) / name
            out_dir.mkdir()
            concepts.append(dreambooth.Concept(name, name, images, out_dir))
        settings = DreamBoothConfig(
            method=method, steps=WARM + STEPS, learning_rate=1e-5, batch_size=1, rank=RANK
        )
        dreambooth.run_together(settings, concepts, base=resolve_base(base), seed=0, progress=tick)


def _theirs(base: str, photos: dict[str, list[Path]], method: str, tick) -> None:
    # First, so that it gets diffusers as any script does: our package keeps triton out of memory.
    from benchmarks import published_way
    from synth_pipeline.adapters import attention_layers
    from synth_pipeline.base_model import resolve_base
    from synth_pipeline.loaded_base import load_pipeline

    pipeline = load_pipeline(resolve_base(base).folder)
    name, images = next(iter(photos.items()))
    published_way.train(
        pipeline,
        images,
        f"photo of a {name} child",
        method=method,
        steps=WARM + STEPS,
        batch_size=1,
        learning_rate=1e-5,
        rank=RANK,
        layers=attention_layers(pipeline.unet),
        seed=0,
        each_step=tick,
    )


if __name__ == "__main__":
    main()
