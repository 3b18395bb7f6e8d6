"""The base model in memory: loaded once, lent to one class after another, given back unchanged."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from synth_pipeline.base_model import BaseModel

# Their bars and warnings would drown our own progress lines.
diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class LoadedBase:
    """A pipeline on its device.

    Attributes:
        pipeline: with frozen float32 weights (half precision where autocast is on).
        accelerator: decides device and precision.
    """

    pipeline: StableDiffusionPipeline
    accelerator: Accelerator

    @property
    def resolution_px(self) -> int:
        """Width and height of the pictures that the base was made for."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor


def new_accelerator() -> Accelerator:
    """bf16 on GPUs that compute with it, fp16 on other GPUs, fp32 on the processor."""
    if not torch.cuda.is_available():
        return Accelerator(mixed_precision="no", cpu=True)
    return Accelerator(mixed_precision="bf16" if torch.cuda.is_bf16_supported() else "fp16")


@lru_cache(maxsize=1)
def load_base(base: BaseModel) -> LoadedBase:
    """Load the base model, or return the one that is in memory."""
    accelerator = new_accelerator()
    pipeline = load_pipeline(base.folder, base.vae_folder)
    pipeline.to(accelerator.device)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False).eval()
    return LoadedBase(pipeline, accelerator)


def load_pipeline(folder: Path, vae_folder: Path | None = None) -> StableDiffusionPipeline:
    """Read a pipeline from safetensors, without safety checker and without the network."""
    changes = {}
    if vae_folder is not None:
        changes["vae"] = AutoencoderKL.from_pretrained(
            vae_folder, use_safetensors=True, dtype=torch.float32, local_files_only=True
        )
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder,
        use_safetensors=True,
        dtype=torch.float32,
        local_files_only=True,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **changes,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seed_everything(seed: int) -> None:
    """Seed what libraries draw from behind our back, such as a LoRA's first weights."""
    set_seed(seed)
