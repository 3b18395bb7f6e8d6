"""A fold's training against a faithful loop of the published one: `python -m benchmarks.training`.

The published loop decodes and resizes every 512 px PNG in every epoch, starts a new loader with its
workers for each epoch, and computes in fp32 with AdamW as torch has it by default. Ours decodes
once. Both train the same small network on the same pictures in batches of the same size, each in a
process of its own, in turns. Prints one JSON line:

    ratio           images per second, ours over theirs, for a fold of 50 epochs: what is decoded
                    once is counted once
    input_ratio     the same without the network: pictures to normalised batches
    peak_memory_mb  the largest resident memory of ours; theirs, without its workers, is told beside
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

ROUNDS = 3
EPOCHS, WARM = 5, 1
#: What the figures are for: the published number of epochs.
FOLD_EPOCHS = 50
BACKBONE = "mobilenetv3_small_075"
SIZE_PX, BATCH, FOLDS = 224, 32, 5
CLASSES, EACH = 12, 16


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        files = _photos(Path(scratch))
        speed: dict[str, list[float]] = {}
        memory: dict[str, list[float]] = {}
        for number in range(ROUNDS):
            for way in WAYS:
                images_per_s, peak_mb = _apart(way, files)
                speed.setdefault(way, []).append(images_per_s)
                memory.setdefault(way, []).append(peak_mb)
                print(
                    f"round {number + 1}: {way}: {images_per_s:.0f} images/s, {peak_mb:.0f} MB",
                    file=sys.stderr,
                    flush=True,
                )

    def ratio(ours: str, theirs: str) -> float:
        return statistics.median(a / b for a, b in zip(speed[ours], speed[theirs], strict=True))

    print(
        json.dumps(
            {
                "ratio": ratio("ours", "theirs"),
                "input_ratio": ratio("our input", "their input"),
                "peak_memory_mb": max(memory["ours"]),
                "their_peak_memory_mb": max(memory["theirs"]),
            }
        )
    )


def _photos(folder: Path) -> dict[str, list[Path]]:
    """Phantoms of 512 px, and each once more mirrored."""
    from PIL import Image, ImageOps

    from benchmarks.phantoms import write_photos

    made = write_photos(folder, classes=CLASSES, per_class=EACH // 2, size_px=256, seed=1)
    found: dict[str, list[Path]] = {}
    for name, files in made.items():
        for path in files:
            with Image.open(path) as opened:
                large = opened.resize((512, 512), Image.Resampling.BICUBIC)
            large.save(path)
            mirrored = path.with_name(f"mirrored-{path.name}")
            ImageOps.mirror(large).save(mirrored)
            found.setdefault(name, []).extend((path, mirrored))
    return found


def _apart(way: str, files: dict[str, list[Path]]) -> tuple[float, float]:
    """Images per second and peak memory in MB of one way, in a fresh process."""
    processes = get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_measure, args=(theirs, way, files))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def _measure(answer: Connection, way: str, files: dict[str, list[Path]]) -> None:
    times: list[float] = []
    images, once_s = WAYS[way](files, lambda: times.append(time.perf_counter()))
    epoch_s = (times[-1] - times[WARM - 1]) / (len(times) - WARM)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answer.send((FOLD_EPOCHS * images / (once_s + FOLD_EPOCHS * epoch_s), peak_mb))


def _prepared(files: dict[str, list[Path]]):  # type: ignore[no-untyped-def]
    from synth_pipeline import training
    from synth_pipeline.config import RecognitionConfig
    from synth_pipeline.picture_store import PictureStore
    from synth_pipeline.recognition_data import Example

    config = RecognitionConfig(
        pretrained=False, folds=FOLDS, epochs=EPOCHS, batch_size=BATCH, size_px=SIZE_PX
    )
    examples = [
        Example(path, name, path.stem, False) for name, paths in files.items() for path in paths
    ]
    with tempfile.TemporaryDirectory() as scratch:
        store = PictureStore(Path(scratch) / "pictures")
        begun_s = time.perf_counter()
        store.pictures([example.path for example in examples], SIZE_PX)
        once_s = time.perf_counter() - begun_s
        fold = training.prepared(
            config,
            backbone=BACKBONE,
            classes=sorted(files),
            examples=examples,
            fold=0,
            seed=0,
            pictures=store,
        )
    return fold, once_s


def _ours(files: dict[str, list[Path]], tick: Callable[[], None]):  # type: ignore[no-untyped-def]
    fold, once_s = _prepared(files)
    fold.run(None, lambda done, total, note: tick())
    return len(fold.fold.train_idx), once_s


def _our_input(files: dict[str, list[Path]], tick: Callable[[], None]):  # type: ignore[no-untyped-def]
    import numpy as np

    from synth_pipeline.fold_training import to_input

    fold, once_s = _prepared(files)
    for _ in range(EPOCHS):
        for chosen in np.array_split(fold.fold.train_idx, fold.batches):
            to_input(fold.fold.pictures.take(chosen), fold.norm)
        tick()
    return len(fold.fold.train_idx), once_s


def _their_loader(files: dict[str, list[Path]], part: str):  # type: ignore[no-untyped-def]
    """A new loader over a fifth, or the other four, of each class's pictures."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.Resize((SIZE_PX, SIZE_PX)),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pictures = [
        (path, label)
        for label, name in enumerate(sorted(files))
        for number, path in enumerate(files[name])
        if (number % FOLDS == 0) == (part == "validation")
    ]

    class Photos(Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, place: int):  # type: ignore[no-untyped-def]
            path, label = pictures[place]
            return change(Image.open(path).convert("RGB")), label

    # As on Linux by default; this process was spawned, and would spawn.
    return DataLoader(
        Photos(),
        batch_size=BATCH,
        shuffle=part == "training",
        num_workers=2,
        multiprocessing_context="fork",
    )


def _theirs(files: dict[str, list[Path]], tick: Callable[[], None]):  # type: ignore[no-untyped-def]
    import timm
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    model = timm.create_model(BACKBONE, num_classes=len(files), drop_rate=0.5)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS, eta_min=1e-6)
    for _ in range(EPOCHS):
        images = 0
        model.train()
        for x, wanted in _their_loader(files, "training"):
            optimiser.zero_grad()
            loss = F.cross_entropy(model(x), wanted)
            loss.backward()
            optimiser.step()
            images += len(x)
        model.eval()
        with torch.no_grad():
            for x, _ in _their_loader(files, "validation"):
                model(x).argmax(1)
        schedule.step()
        tick()
    return images, 0.0


def _their_input(files: dict[str, list[Path]], tick: Callable[[], None]):  # type: ignore[no-untyped-def]
    for _ in range(EPOCHS):
        images = sum(len(x) for x, _ in _their_loader(files, "training"))
        tick()
    return images, 0.0


WAYS = {
    "theirs": _theirs,
    "ours": _ours,
    "their input": _their_input,
    "our input": _our_input,
}


if __name__ == "__main__":
    main()
