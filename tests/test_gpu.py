"""What only an NVIDIA GPU shows: replayed, its work gives the same as kernel by kernel.

Skipped where there is none; they need no landmarks, so mediapipe may be missing.
"""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from synth_pipeline import dreambooth, replay, sampling
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import DreamBoothConfig, SamplingConfig
from synth_pipeline.loaded_base import load_base
from synth_pipeline.replay import Replay
from synth_pipeline.trainers import WEIGHTS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")

SETTINGS = DreamBoothConfig(steps=9, learning_rate=1e-3, batch_size=2, rank=2)
SAMPLES = SamplingConfig(images_per_class=3, steps=8, guidance_scale=2.0, batch_size=2)


@pytest.fixture(params=["bf16", "fp16", "fp32"])
def base(request, tiny_base):
    load_base.cache_clear()
    return resolve_base(str(tiny_base), precision=request.param)


@pytest.fixture
def recordings(monkeypatch):
    """How many were made."""
    made = []
    capture = replay._Record.capture
    monkeypatch.setattr(
        replay._Record, "capture", lambda self, *args: made.append(1) or capture(self, *args)
    )
    return made


def learn(base, phantom_files, folder):
    concepts = []
    for name, images in list(phantom_files.items())[:2]:
        out_dir = folder / name
        out_dir.mkdir(parents=True)
        concepts.append(dreambooth.Concept(name, name, images[:4], out_dir))
    done = dreambooth.run_together(SETTINGS, concepts, base=base, seed=7)
    assert all(isinstance(each, dict) for each in done.values()), done
    return concepts


def draw(base, concept, out_dir):
    out_dir.mkdir()
    sampling.run(
        SAMPLES,
        class_id=concept.class_id,
        class_name=concept.class_name,
        prompt=f"photo of a {concept.class_name} child",
        concept_dir=concept.out_dir,
        base=base,
        seed=7,
        out_dir=out_dir,
    )
    return [np.asarray(Image.open(path)) for path in sorted(out_dir.glob("images/*.png"))]


def test_replayed_steps_learn_the_same(base, phantom_files, tmp_path, recordings, monkeypatch):
    replayed = learn(base, phantom_files, tmp_path / "replayed")
    assert len(recordings) == 1
    monkeypatch.setattr(replay, "_WARM", sys.maxsize)
    one_by_one = learn(base, phantom_files, tmp_path / "one-by-one")
    assert len(recordings) == 1
    for ours, theirs in zip(replayed, one_by_one, strict=True):
        for name, value in load_file(ours.out_dir / WEIGHTS).items():
            other = load_file(theirs.out_dir / WEIGHTS)[name]
            torch.testing.assert_close(value, other, rtol=2e-2, atol=2e-4)


def test_replayed_images_are_the_same(base, phantom_files, tmp_path, recordings, monkeypatch):
    concept = learn(base, phantom_files, tmp_path / "concepts")[0]
    made = len(recordings)
    replayed = draw(base, concept, tmp_path / "replayed")
    # A full batch, and one image that is left.
    assert len(recordings) == made + 2
    monkeypatch.setattr(replay, "_WARM", sys.maxsize)
    for ours, theirs in zip(replayed, draw(base, concept, tmp_path / "kernels"), strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_another_concept_is_another_recording(base, phantom_files, tmp_path):
    first, second = learn(base, phantom_files, tmp_path / "concepts")
    images = [draw(base, each, tmp_path / each.class_id) for each in (first, second)]
    assert any((a != b).any() for a, b in zip(*images, strict=True))
    again = draw(base, first, tmp_path / "again")
    assert all((a == b).all() for a, b in zip(images[0], again, strict=True))


def test_what_waits_for_the_gpu_goes_on_kernel_by_kernel(caplog):
    def body(x):
        return x * x.sum().item()

    called = Replay(body)
    for number in range(6):
        x = torch.full((3,), float(number), device="cuda")
        torch.testing.assert_close(called(x), x * number * 3)
    (told,) = caplog.records
    assert told.message.startswith("the GPU's work goes on kernel by kernel: not recorded, ")
    # The GPU is none the worse.
    again = Replay(lambda x: x * 2)
    for number in range(6):
        x = torch.full((3,), float(number), device="cuda")
        torch.testing.assert_close(again(x), x * 2)


def test_shapes_take_turns():
    doubled = Replay(lambda x: torch.cat([x, x * 2]))
    for number in range(12):
        x = torch.arange(4.0 + number % 3, device="cuda") + number
        torch.testing.assert_close(doubled(x), torch.cat([x, x * 2]))
