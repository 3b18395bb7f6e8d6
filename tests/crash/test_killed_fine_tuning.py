"""A fine-tuning that is killed again and again ends with the weights of one that was not."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from synth_pipeline import dreambooth
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import DreamBoothConfig
from synth_pipeline.store import file_sha256

STEPS = 44
#: Where it is killed: at every third step or so, before, at and after those that are saved.
KILLS = [1, 3, 4, 6, 8, 9, 11, 13, 16, 18, 21, 23, 25, 27, 29, 32, 35, 38, 40, 43]


def tune(base: str, images: list[Path], place: Path, method: str, kill_at: int | None) -> None:
    out_dir = place / f"out-{kill_at}"
    out_dir.mkdir(parents=True)
    (place / "work").mkdir(exist_ok=True)

    def progress(done: int, total: int, note: str) -> None:
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    dreambooth.run(
        DreamBoothConfig(
            steps=STEPS,
            learning_rate=1e-3,
            batch_size=2,
            rank=2,
            method=method,
            lora_targets="all",
            lr_schedule="cosine",
            checkpoint_steps=4,
        ),
        class_id="dofanu",
        class_name="dofanu",
        images=images,
        base=resolve_base(base),
        seed=7,
        out_dir=out_dir,
        work_dir=place / "work",
        progress=progress,
    )


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_at_twenty_steps(method, tiny_base, phantom_files, tmp_path):
    assert len(set(KILLS)) == 20
    images = next(iter(phantom_files.values()))[:4]
    # Processes that have imported torch already, so that a kill costs a fraction of a second.
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["synth_pipeline.dreambooth", "transformers"])

    def run(place: Path, kill_at: int | None) -> int | None:
        arguments = (str(tiny_base), images, place, method, kill_at)
        process = processes.Process(target=tune, args=arguments)
        process.start()
        process.join()
        return process.exitcode

    assert run(tmp_path / "whole", None) == 0
    for step in KILLS:
        assert run(tmp_path / "killed", step) == -signal.SIGKILL
    assert run(tmp_path / "killed", None) == 0
    whole, killed = (
        {
            path.relative_to(folder).as_posix(): file_sha256(path)
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in (tmp_path / "whole" / "out-None", tmp_path / "killed" / "out-None")
    )
    assert any(name.endswith(".safetensors") for name in whole)
    assert killed == whole
