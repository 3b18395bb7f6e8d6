"""The architecture of Stable Diffusion 1.5 at its real sizes, with random weights.

Slow and large (about five minutes and 20 GB on two cores), so it runs when asked for:
`make test-slow`.
"""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from synth_pipeline import dreambooth, sampling
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import load_config
from synth_pipeline.loaded_base import load_base
from synth_pipeline.phantom.base_parts import make_tokenizer
from tests.command_line import ROOT


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """The folder of a pipeline of one thousand million random weights."""
    folder = tmp_path_factory.mktemp("sd")
    tokenizer = make_tokenizer(["photo of a noonan child"], folder / "tokenizer-made")
    tokenizer.model_max_length = 77
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "base", safe_serialization=True)
    return folder / "base"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rdface", "rdface-published"])
def test_a_step_of_training_and_one_of_sampling(name, stable_diffusion, phantom_files, tmp_path):
    config = load_config(ROOT / "configs" / f"{name}.yaml", ["cases.source=."])
    base = resolve_base(str(stable_diffusion))
    tuning = config.dreambooth.model_copy(
        update={"steps": 1, "gradient_checkpointing": True, "precision": "fp32"}
    )
    concept, samples = tmp_path / "concept", tmp_path / "samples"
    concept.mkdir()
    samples.mkdir()
    class_id, images = next(iter(phantom_files.items()))
    who = {"class_id": class_id, "class_name": class_id, "base": base, "seed": 0}
    dreambooth.run(tuning, images=images[:2], out_dir=concept, **who)
    drawing = config.sampling.model_copy(update={"images_per_class": 1, "steps": 1})
    sampling.run(drawing, prompt="photo of a child", concept_dir=concept, out_dir=samples, **who)
    load_base.cache_clear()
    with Image.open(samples / "images" / "00000.png") as image:
        assert image.size == (512, 512)
        assert np.asarray(image).std() > 0
