"""The base model in memory: loaded once, lent to one class after another, given back unchanged."""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from synth_pipeline.base_model import BaseModel
from synth_pipeline.config import DreamBoothConfig, Precision
from synth_pipeline.errors import InputError

# Their bars and warnings would drown our own progress lines.
diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class LoadedBase:
    """A pipeline on its device.

    Attributes:
        pipeline: with frozen weights, float32 or, where autocast is on, half of UNet and text
            encoder.
        accelerator: decides device and precision.
    """

    pipeline: StableDiffusionPipeline
    accelerator: Accelerator

    @property
    def resolution_px(self) -> int:
        """Width and height of the pictures that the base was made for."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor


def new_accelerator(precision: Precision) -> Accelerator:
    """Device and precision; `auto` is bf16 on GPUs that compute with it, fp16 on other GPUs."""
    gpu = torch.cuda.is_available()
    if precision == "auto":
        precision = "fp32"
        if gpu:
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    # accelerate remembers the first precision it was asked for in a process.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=not gpu)


def check_device(settings: DreamBoothConfig) -> None:
    """Find out before any work what this machine cannot do.

    Raises:
        InputError: the settings want a GPU or a package that is not here.
    """
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise InputError(
            "dreambooth.precision: fp16 wants an NVIDIA GPU, and there is none; choose auto."
        )
    if settings.optimiser == "adamw-8bit" and not (
        torch.cuda.is_available() and find_spec("bitsandbytes")
    ):
        raise InputError(
            "dreambooth.optimiser: adamw-8bit wants an NVIDIA GPU and the package bitsandbytes; "
            "choose adamw."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was wanted that is not there, on a GPU or on the processor."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


@lru_cache(maxsize=1)
def load_base(base: BaseModel) -> LoadedBase:
    """Load the base model, or return the one that is in memory."""
    accelerator = new_accelerator(base.precision)
    pipeline = load_pipeline(base.folder, base.vae_folder)
    pipeline.to(accelerator.device)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False).eval()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    if half is not None:
        # Frozen, so nothing is gained by more; the autoencoder overflows in half precision.
        pipeline.unet.to(half)
        pipeline.text_encoder.to(half)
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
