"""The published way of DreamBooth, as a yardstick: our own words for what the reference does.

As the reference scripts of diffusers do it (their DreamBooth example, with and without LoRA): a
loader without workers opens, turns, resizes and normalises the photo and tokenises the prompt at
every step; the step encodes both again; the optimiser is AdamW as it comes; pictures are drawn one
at a time. Only what costs time or memory is here: no logging, no trackers, no checkpoints.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from PIL import Image
from PIL.ImageOps import exif_transpose
from torchvision import transforms


class Photos(torch.utils.data.Dataset):
    """One class's photos and its prompt, read anew each time."""

    def __init__(self, images: Sequence[Path], prompt: str, tokenizer, size_px: int) -> None:
        self.images, self.prompt, self.tokenizer = images, prompt, tokenizer
        self.transforms = transforms.Compose(
            [
                transforms.Resize(size_px, transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(size_px),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        picture = exif_transpose(Image.open(self.images[index])).convert("RGB")
        ids = self.tokenizer(
            self.prompt,
            truncation=True,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return {"pixels": self.transforms(picture), "ids": ids[0]}


def train(
    pipeline: StableDiffusionPipeline,
    images: Sequence[Path],
    prompt: str,
    *,
    method: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    rank: int,
    layers: Sequence[str],
    seed: int,
    precision: torch.dtype = torch.float32,
    each_step=lambda step: None,
) -> None:
    """Train a pipeline in place: adapters on `layers` of its UNet, or UNet and text encoder.

    Args:
        pipeline: float32; nobody else's.
        images: the photos.
        prompt: the instance prompt.
        method: `lora` or `full`.
        steps: optimiser steps.
        batch_size: photos a step.
        learning_rate: constant.
        rank: of the adapters.
        layers: that get one.
        seed: of everything that is drawn.
        precision: of autocast; float16 scales the loss, as accelerate does.
        each_step: called after each step.
    """
    torch.manual_seed(seed)
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    for module in (unet, vae, text_encoder):
        module.requires_grad_(False)
    if method == "lora":
        unet.add_adapter(
            LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(layers)
            )
        )
    else:
        unet.requires_grad_(True)
        text_encoder.requires_grad_(True)
        text_encoder.train()
    unet.train()
    weights = [p for m in (unet, text_encoder) for p in m.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=1e-2)
    schedule = get_scheduler("constant", optimiser)
    noise_schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    size_px = unet.config.sample_size * pipeline.vae_scale_factor
    photos = Photos(images, prompt, pipeline.tokenizer, size_px)
    device = pipeline.device
    # As the script does: what does not learn lies in half precision.
    vae.to(precision)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    step = 0
    while step < steps:
        for batch in torch.utils.data.DataLoader(photos, batch_size, shuffle=True):
            pixels, ids = batch["pixels"].to(device, precision), batch["ids"].to(device)
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            times = noise_schedule.config.num_train_timesteps
            at = torch.randint(0, times, (len(latents),), device=device)
            noisy = noise_schedule.add_noise(latents, noise, at)
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                words = text_encoder(ids)[0]
                predicted = unet(noisy, at, words).sample
            wanted = noise
            if noise_schedule.config.prediction_type == "v_prediction":
                wanted = noise_schedule.get_velocity(latents, noise, at)
            loss = F.mse_loss(predicted.float(), wanted.float())
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            scaler.step(optimiser)
            scaler.update()
            schedule.step()
            optimiser.zero_grad()
            step += 1
            each_step(step)
            if step == steps:
                break


def sample(
    pipeline: StableDiffusionPipeline, prompt: str, *, images: int, steps: int, guidance: float
) -> list[Image.Image]:
    """Draw pictures one at a time with the base's own sampler."""
    pipeline.set_progress_bar_config(disable=True)
    return [
        pipeline(
            prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(index),
        ).images[0]
        for index in range(images)
    ]
