"""Stable Diffusion 1.5's architecture at its real sizes, with random weights.

The weights cannot be had without a model hub; what a step costs does not depend on them.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from synth_pipeline.phantom.base_parts import make_tokenizer


def write_random_base(folder: Path, device: str = "cpu") -> Path:
    """Write the folder of a pipeline of one thousand million weights, four gigabytes.

    Args:
        folder: to be made.
        device: where the weights are drawn; a GPU takes a second instead of a minute.

    Returns:
        The folder of the pipeline.
    """
    tokenizer = make_tokenizer(["photo of a noonan child"], folder / "tokenizer-made")
    tokenizer.model_max_length = 77
    torch.manual_seed(0)
    with torch.device(device):
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
