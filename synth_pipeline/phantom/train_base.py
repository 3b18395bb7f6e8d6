"""Train the embedded base model on phantoms, from random weights, resumable at any step.

Five trainings follow each other: the autoencoder; the same with its posterior a point; the same to
the eye of a reader of shapes; the same, deepened; then the denoiser with the text encoder. Each
step's batch depends on (seed, step) alone, so that a resumed training goes on as if never stopped.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline

from synth_pipeline.phantom import base_parts as parts
from synth_pipeline.phantom.autoencoding import (
    ShapeReader,
    autoencoder_loss,
    encode_all,
    finishing_loss,
    sharpening_loss,
)
from synth_pipeline.phantom.resumable import Training
from synth_pipeline.progress import Progress, silent


def train_base(
    out_dir: Path,
    *,
    work_dir: Path,
    mesh_path: Path,
    images: int = 12_000,
    autoencoder_steps: int = 2800,
    finishing_steps: int = 2400,
    sharpening_steps: int = 1000,
    deepening_steps: int = 2400,
    denoiser_steps: int = 4600,
    seed: int = 0,
    progress: Progress = silent,
) -> None:
    """Train and write a Stable-Diffusion-format folder of half-precision safetensors.

    Args:
        out_dir: the pipeline's folder; replaced in one step at the end.
        work_dir: renders and checkpoints; run again with the same one to go on, with more steps
            or more images too.
        mesh_path: `face_landmarker.task`, for the mesh.
        images: how many phantoms to train on.
        autoencoder_steps: of 8 pictures each.
        finishing_steps: of 8 pictures each, with the posterior a point.
        sharpening_steps: of 8 pictures each, with the latents held near what they are.
        deepening_steps: of 8 pictures each, by the same loss, with twice the layers.
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
    first = Training(work_dir / "autoencoder.pt", {"vae": autoencoder}, 1.5e-3, autoencoder_steps)
    first.run(
        lambda step: autoencoder_loss(autoencoder, pictures, seed, step), progress, "autoencoder"
    )
    with first.averaged():
        # Named by what it goes on from: an autoencoder that was trained on is finished anew.
        path = work_dir / f"finishing-{autoencoder_steps}.pt"
        finish = Training(path, {"vae": autoencoder}, 1e-3, finishing_steps)
    finish.run(lambda step: finishing_loss(autoencoder, pictures, seed, step), progress, "finish")
    with finish.averaged():
        made_by = f"{images}-{autoencoder_steps}-{finishing_steps}"
        latents = encode_all(autoencoder, pictures, work_dir / f"latents-{made_by}.pt", progress)
        sharpened = work_dir / f"sharpening-{made_by}.pt"
        sharpen = Training(sharpened, {"vae": autoencoder}, 4e-4, sharpening_steps)
    reader = ShapeReader()
    sharpen.run(
        lambda step: sharpening_loss(autoencoder, reader, pictures, latents, seed, step),
        progress,
        "sharpening",
    )
    with sharpen.averaged():
        deep = parts.deepened(autoencoder, seed).to(memory_format=torch.channels_last)
        path = work_dir / f"deepening-{made_by}-{sharpening_steps}.pt"
        deepen = Training(path, {"vae": deep}, 5e-4, deepening_steps)
    deepen.run(
        lambda step: sharpening_loss(deep, reader, pictures, latents, seed, step),
        progress,
        "deepening",
    )
    scale = 1 / float(latents.std())
    deep.register_to_config(scaling_factor=scale)
    unet = parts.new_unet(seed)
    text_encoder = parts.new_text_encoder(seed, tokenizer)
    second = Training(
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
    with deepen.averaged(), second.averaged():
        parts.fix_posterior(deep)
        pipeline = StableDiffusionPipeline(
            vae=deep,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        trainings = {
            "autoencoder": first,
            "finishing": finish,
            "sharpening": sharpen,
            "deepening": deepen,
            "denoiser": second,
        }
        _write(pipeline, out_dir, trainings, images, seed)


def _write(
    pipeline: StableDiffusionPipeline,
    out_dir: Path,
    trainings: dict[str, Training],
    images: int,
    seed: int,
) -> None:
    """Write the folder beside and put it in place, with its model card and its losses."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    beside = out_dir.with_name(f".{out_dir.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(beside, safe_serialization=True)
    with (beside / "losses.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("training", "step", "loss"))
        for name, training in trainings.items():
            for step in range(0, training.steps, 25):
                mean = sum(training.losses[step : step + 25]) / len(
                    training.losses[step : step + 25]
                )
                writer.writerow((name, step, f"{mean:.5f}"))
    facts: dict[str, float] = {
        "images": images,
        "seed": seed,
    }
    for name, training in trainings.items():
        facts[f"{name}_steps"] = training.step
        facts[f"{name}_minutes"] = round(training.seconds / 60, 1)
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
| autoencoder | {autoencoder_steps} | {autoencoder_minutes} |
| the same, its posterior a point | {finishing_steps} | {finishing_minutes} |
| the same, to the eye of a reader of shapes | {sharpening_steps} | {sharpening_minutes} |
| the same, with twice the layers | {deepening_steps} | {deepening_minutes} |
| denoiser and text encoder | {denoiser_steps} | {denoiser_minutes} |

A step is 8 pictures, of the denoiser 32 latents. The losses are in `losses.csv`. Weights are the
moving average, stored in half precision. Prompts look like `photo of a child, young, light skin,
fringe brown hair, hypertelorism, blue background`; an unknown word before `child` is answered with
a face. Velocity prediction, zero terminal SNR.

Not for faces of real people, and not for any clinical use.
"""
