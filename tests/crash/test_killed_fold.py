"""A fold that is killed after epoch upon epoch ends with the weights of one that was not."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from synth_pipeline import training
from synth_pipeline.config import RecognitionConfig
from synth_pipeline.recognition_data import Example

FILES = ("model.safetensors", "fold.json", "history.parquet")


def train(files: dict[str, list[Path]], place: Path, protocol: str, kill_at: int | None) -> None:
    out_dir = place / f"out-{kill_at}"
    out_dir.mkdir(parents=True)
    (place / "work").mkdir(exist_ok=True)

    def progress(done: int, total: int, note: str) -> None:
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    training.run(
        RecognitionConfig(
            pretrained=False,
            protocol=protocol,
            head="se",
            folds=2,
            epochs=6,
            batch_size=4,
            learning_rate=1e-3,
            size_px=48,
            checkpoint_s=0,
        ),
        backbone="test_resnet",
        classes=sorted(files),
        examples=[
            Example(path, name, f"{name}/{n}", False)
            for name, paths in files.items()
            for n, path in enumerate(paths)
        ],
        fold=1,
        seed=5,
        out_dir=out_dir,
        work_dir=place / "work",
        progress=progress,
    )


@pytest.mark.parametrize("protocol", ["published", "tuned"])
def test_killed_at_its_first_epochs(protocol, phantom_files, tmp_path):
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["synth_pipeline.training"])

    def run(place: Path, kill_at: int | None) -> int | None:
        process = processes.Process(target=train, args=(phantom_files, place, protocol, kill_at))
        process.start()
        process.join()
        return process.exitcode

    assert run(tmp_path / "whole", None) == 0
    # The tuned protocol may stop by itself after the third.
    for epoch in (1, 2, 3):
        assert run(tmp_path / "killed", epoch) == -signal.SIGKILL
    assert run(tmp_path / "killed", None) == 0
    for name in FILES:
        whole, killed = (tmp_path / place / "out-None" / name for place in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes(), name
