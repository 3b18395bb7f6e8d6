"""The base model in memory: loaded once, lent to one class after another, given back unchanged."""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import ref

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel
from transformers.utils import logging as transformers_logging

from synth_pipeline import weight_files
from synth_pipeline.base_files import NETWORKS
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
        pipeline: with frozen weights, float32 or, of UNet and text encoder, `half`.
        accelerator: decides device and precision.
    """

    pipeline: StableDiffusionPipeline
    accelerator: Accelerator

    @property
    def resolution_px(self) -> int:
        """Width and height of the pictures that the base was made for."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @property
    def half(self) -> torch.dtype | None:
        """Half precision, where frozen networks compute in it."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)

    def halve(self, pipeline: StableDiffusionPipeline) -> None:
        """Put a pipeline's frozen UNet and text encoder into `half`, where there is one.

        Nothing is gained by more; the autoencoder overflows in half precision.
        """
        if self.half is not None:
            _to_half(pipeline.unet, self.half)
            pipeline.text_encoder.to(self.half)


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
    loaded = LoadedBase(pipeline, accelerator)
    loaded.halve(pipeline)
    if accelerator.device.type == "cuda":
        # Eight pictures of 512 px at a time want seven gigabytes more, to be a twentieth faster.
        pipeline.vae.enable_slicing()
    return loaded


def _to_half(unet: UNet2DConditionModel, half: torch.dtype) -> None:
    """Let a frozen UNet compute in half precision, and still take and give float32.

    Autocast would not: it turns each normalisation into float32 and back. Between the calls latents
    stay float32, or every step of a sampler would round.

    Args:
        unet: changed in place.
        half: bfloat16 or float16.
    """
    forward = type(unet).forward
    # Held by itself, a network would wait for a garbage collection, which memory does not trigger.
    held = ref(unet.to(half))

    def in_half(
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        with torch.autocast(sample.device.type, enabled=False):
            predicted = forward(
                held(),
                sample.to(half),
                timestep,
                encoder_hidden_states.to(half),
                return_dict=return_dict,
                **options,
            )
        if not return_dict:
            return (predicted[0].float(),)
        predicted.sample = predicted.sample.float()
        return predicted

    unet.forward = in_half


def load_pipeline(folder: Path, vae_folder: Path | None = None) -> StableDiffusionPipeline:
    """Read a pipeline from safetensors, without safety checker and without the network.

    Weights that lie there in half precision only (`*.fp16.safetensors`) are read into float32.
    """
    parts = {
        part: _load_part(kind, folder / part, NETWORKS[part][1])
        for part, kind in (
            ("unet", UNet2DConditionModel),
            ("text_encoder", CLIPTextModel),
            ("vae", AutoencoderKL),
        )
        if part != "vae" or vae_folder is None
    }
    if vae_folder is not None:
        parts["vae"] = _load_part(AutoencoderKL, vae_folder, NETWORKS["vae"][1])
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder,
        local_files_only=True,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load_part(kind: Any, folder: Path, stem: str) -> torch.nn.Module:
    found = weight_files.find(folder, stem)
    return kind.from_pretrained(
        folder,
        use_safetensors=True,
        variant=found.variant if found else None,
        dtype=torch.float32,
        local_files_only=True,
    )
