"""Train the embedded base model on phantoms, from random weights, resumable at any step.

Two trainings follow each other: the autoencoder, then the denoiser with the text encoder. Each
step's batch depends on (seed, step) alone, so that a resumed training goes on as if never stopped.
"""

import csv
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import nn

from synth_pipeline.phantom import base_parts as parts
from synth_pipeline.progress import Progress, silent

_CHECKPOINT_EVERY = 100


class _Training:
    """Weights, optimiser, losses and step of one training, kept in one file."""

    def __init__(self, path: Path, modules: dict[str, nn.Module], lr: float, steps: int) -> None:
        self.path, self.modules, self.lr, self.steps = path, modules, lr, steps
        weights = [p for module in modules.values() for p in module.parameters()]
        self.optimiser = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01)
        self.ema = {
            name: {k: v.detach().clone() for k, v in module.state_dict().items()}
            for name, module in modules.items()
        }
        self.step = 0
        self.losses: list[float] = []
        self.seconds = 0.0
        if path.exists():
            state = torch.load(path, weights_only=True)
            for name, module in modules.items():
                module.load_state_dict(state["modules"][name])
            self.optimiser.load_state_dict(state["optimiser"])
            self.ema, self.step = state["ema"], state["step"]
            self.losses, self.seconds = state["losses"], state["seconds"]

    def save(self) -> None:
        beside = self.path.with_suffix(".part")
        torch.save(
            {
                "modules": {name: m.state_dict() for name, m in self.modules.items()},
                "optimiser": self.optimiser.state_dict(),
                "ema": self.ema,
                "step": self.step,
                "losses": self.losses,
                "seconds": self.seconds,
            },
            beside,
        )
        beside.replace(self.path)

    def run(self, loss_of_step, progress: Progress, note: str) -> None:  # type: ignore[no-untyped-def]
        """Step until `steps`; the loss is looked at before the weights move."""
        begun = time.monotonic()
        weights = [p for m in self.modules.values() for p in m.parameters()]
        while self.step < self.steps:
            warm = min(1.0, (self.step + 1) / 100)
            rate = self.lr * warm * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
            for group in self.optimiser.param_groups:
                group["lr"] = max(rate, self.lr * 0.02)
            loss = loss_of_step(self.step)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{note}: the loss of step {self.step} is not finite")
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            self.optimiser.step()
            self._average()
            self.losses.append(loss.item())
            self.step += 1
            if self.step % _CHECKPOINT_EVERY == 0 or self.step == self.steps:
                self.seconds += time.monotonic() - begun
                begun = time.monotonic()
                self.save()
            recent = sum(self.losses[-50:]) / len(self.losses[-50:])
            progress(self.step, self.steps, f"{note} loss {recent:.4f}")

    def _average(self) -> None:
        """Exponential moving average of the weights, which is what is kept."""
        decay = min(0.9985, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for name, module in self.modules.items():
                for key, value in module.state_dict().items():
                    average = self.ema[name][key]
                    if average.is_floating_point():
                        average.lerp_(value, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights in place, to keep or to encode with."""
        for name, module in self.modules.items():
            module.load_state_dict(self.ema[name])
            module.eval()
        yield


def train_base(
    out_dir: Path,
    *,
    work_dir: Path,
    mesh_path: Path,
    images: int = 6000,
    autoencoder_steps: int = 2400,
    denoiser_steps: int = 4500,
    seed: int = 0,
    progress: Progress = silent,
) -> None:
    """Train and write a Stable-Diffusion-format folder of half-precision safetensors.

    Args:
        out_dir: the pipeline's folder; replaced in one step at the end.
        work_dir: renders and checkpoints; run again with the same one to go on.
        mesh_path: `face_landmarker.task`, for the mesh.
        images: how many phantoms to train on.
        autoencoder_steps: of 8 pictures each.
        denoiser_steps: of 32 latents each.
        seed: of the phantoms, the weights and the batches.
        progress: told after each step.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    pictures, captions = parts.render_training_set(
        work_dir / "phantoms", images=images, seed=seed, landmark_model=mesh_path, progress=progress
    )
    tokenizer = parts.make_tokenizer(captions, work_dir / "tokenizer")
    autoencoder = parts.new_autoencoder(seed).to(memory_format=torch.channels_last)
    first = _Training(work_dir / "autoencoder.pt", {"vae": autoencoder}, 1.5e-3, autoencoder_steps)
    first.run(
        lambda step: _autoencoder_loss(autoencoder, pictures, seed, step), progress, "autoencoder"
    )
    with first.averaged():
        latents = _encode_all(autoencoder, pictures, work_dir / "latents.npy", progress)
    scale = 1 / float(latents.std())
    autoencoder.register_to_config(scaling_factor=scale)
    unet = parts.new_unet(seed)
    text_encoder = parts.new_text_encoder(seed, tokenizer)
    second = _Training(
        work_dir / "denoiser.pt", {"unet": unet, "text": text_encoder}, 6e-4, denoiser_steps
    )
    scheduler = parts.new_scheduler()
    scaled = torch.from_numpy(latents) * scale

    def denoiser_loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng([seed, 5, step])
        chosen = rng.integers(len(scaled), size=32)
        prompts = [parts.prompt_for(captions[i], rng) for i in chosen]
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        z = scaled[chosen]
        noise = torch.randn(z.shape, generator=generator)
        t = torch.randint(0, 1000, (len(z),), generator=generator)
        ids = tokenizer(
            prompts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        words = text_encoder(ids).last_hidden_state
        predicted = unet(scheduler.add_noise(z, noise, t), t, words).sample
        return F.mse_loss(predicted, scheduler.get_velocity(z, noise, t))

    unet.train()
    text_encoder.train()
    second.run(denoiser_loss, progress, "denoiser")
    with second.averaged():
        pipeline = StableDiffusionPipeline(
            vae=autoencoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        _write(pipeline, out_dir, first, second, images, seed)


def _autoencoder_loss(
    autoencoder: AutoencoderKL, pictures: np.ndarray, seed: int, step: int
) -> torch.Tensor:
    """L1 on pixels and on their differences, at two scales, and a little KL.

    The differences keep lids and lips sharp, where a phenotype is; the middle of the picture, which
    holds the face, counts double.
    """
    rng = np.random.default_rng([seed, 4, step])
    batch = pictures[rng.integers(len(pictures), size=8)]
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    x = x.contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    posterior = autoencoder.encode(x).latent_dist
    y = autoencoder.decode(posterior.sample(generator)).sample
    weight = torch.ones(x.shape[-2:])
    edge = parts.SIZE_PX // 5
    weight[edge:-edge, edge:-edge] = 2.0
    difference = y - x
    loss = (difference.abs() * weight).mean()
    for level in (1, 2):
        d = F.avg_pool2d(difference, level) if level > 1 else difference
        w = weight[::level, ::level]
        loss = loss + ((d[..., :, 1:] - d[..., :, :-1]).abs() * w[:, 1:]).mean()
        loss = loss + ((d[..., 1:, :] - d[..., :-1, :]).abs() * w[1:, :]).mean()
    return loss + 1e-6 * posterior.kl().mean()


@torch.no_grad()
def _encode_all(
    autoencoder: AutoencoderKL, pictures: np.ndarray, path: Path, progress: Progress
) -> np.ndarray:
    """The latents' means of all pictures, (N, 8, 16, 16) float32, kept for the next start."""
    if path.exists():
        return np.load(path)
    found = []
    for start in range(0, len(pictures), 50):
        x = torch.from_numpy(pictures[start : start + 50]).permute(0, 3, 1, 2).float()
        found.append(autoencoder.encode(x.div(127.5).sub(1)).latent_dist.mean.numpy())
        progress(min(start + 50, len(pictures)), len(pictures), "encoding")
    # In one fixed memory order, as a file has it: the denoiser's kernels, and so its last bits,
    # depend on the order, and a resumed training reads the file.
    latents = np.ascontiguousarray(np.concatenate(found))
    beside = path.with_suffix(".part.npy")
    np.save(beside, latents)
    beside.replace(path)
    return latents


def _write(
    pipeline: StableDiffusionPipeline,
    out_dir: Path,
    first: _Training,
    second: _Training,
    images: int,
    seed: int,
) -> None:
    """Write the folder beside and put it in place, with its model card and its losses."""
    beside = out_dir.with_name(f".{out_dir.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(beside, safe_serialization=True)
    with (beside / "losses.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("training", "step", "loss"))
        for name, training in (("autoencoder", first), ("denoiser", second)):
            for step in range(0, training.steps, 25):
                mean = sum(training.losses[step : step + 25]) / len(
                    training.losses[step : step + 25]
                )
                writer.writerow((name, step, f"{mean:.5f}"))
    facts = {
        "images": images,
        "seed": seed,
        "autoencoder_steps": first.steps,
        "autoencoder_minutes": round(first.seconds / 60, 1),
        "denoiser_steps": second.steps,
        "denoiser_minutes": round(second.seconds / 60, 1),
    }
    (beside / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    (beside / "README.md").write_text(_CARD.format(**facts), encoding="utf-8")
    old = out_dir.with_name(f".{out_dir.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out_dir.exists():
        out_dir.rename(old)
    beside.rename(out_dir)
    shutil.rmtree(old, ignore_errors=True)


_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The phantom base

A small text-to-image model in Stable Diffusion's format: 128×128 pixels, latents of 16×16×8. It was
trained from random weights on {images} procedural faces (`synth-pipeline phantom train-base`,
seed {seed}); no pixel of it comes from a person. It is there so that every stage of synth-pipeline
runs, with real libraries, on a machine that has neither a GPU nor a model hub.

| training | steps | minutes on two cores |
|---|---|---|
| autoencoder (8 pictures a step) | {autoencoder_steps} | {autoencoder_minutes} |
| denoiser and text encoder (32 latents a step) | {denoiser_steps} | {denoiser_minutes} |

The losses are in `losses.csv`. Weights are the moving average, stored in half precision. Prompts
look like `photo of a child, light skin, fringe brown hair, hypertelorism, blue background`; an
unknown word before `child` is answered with a face. Velocity prediction, zero terminal SNR.

Not for faces of real people, and not for any clinical use.
"""
