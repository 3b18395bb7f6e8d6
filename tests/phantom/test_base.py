"""The base model that the package carries."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

BASE = Path(str(files("synth_pipeline") / "assets" / "phantom-base"))
LARGEST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusionPipeline.from_pretrained(BASE, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_fits_in_the_repository_and_holds_no_pickle():
    paths = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) < LARGEST_BYTES
    assert {path.suffix for path in paths} <= {".json", ".txt", ".md", ".csv", ".safetensors"}


@pytest.mark.parametrize(
    "prompt",
    ["photo of a child", "photo of a zorblax child, naïve 42 名", "photo of a child, " * 40],
)
def test_any_words_become_tokens(pipeline, prompt):
    tokenizer = pipeline.tokenizer
    assert tokenizer.unk_token_id not in tokenizer(prompt).input_ids[1:-1]
    cut = tokenizer(prompt, truncation=True).input_ids
    assert cut[0] == tokenizer.bos_token_id
    assert cut[-1] == tokenizer.eos_token_id
    assert len(cut) <= tokenizer.model_max_length


def test_its_samples_are_faces(pipeline, find_landmarks):
    """The instance prompt of DreamBooth, with a word the model has never seen."""
    images = pipeline(
        ["photo of a zorblax child", "photo of a child"] * 4,
        num_inference_steps=20,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(0),
    ).images
    assert {image.size for image in images} == {(128, 128)}
    found = [find_landmarks(np.asarray(image)) is not None for image in images]
    assert sum(found) >= 7


def test_attention_lies_at_two_resolutions(pipeline):
    """DreamBooth's adapters go on `to_q`, `to_k`, `to_v` and `to_out.0`."""
    layers = {name for name, _ in pipeline.unet.named_modules() if name.endswith("attn2.to_k")}
    assert any(name.startswith("down_blocks.0") for name in layers)
    assert any(name.startswith("down_blocks.1") for name in layers)
