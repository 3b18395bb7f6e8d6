"""Fine-tune one class: DreamBooth (Ruiz et al. 2023, section 3), by LoRA or in full.

What does not change is computed once: the latents' distributions of the training photos and, for
LoRA, the prompt's embedding. There is no flip and no crop, because asymmetry is phenotype.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from PIL import Image, ImageOps

from synth_pipeline import checkpoints
from synth_pipeline.base_model import BaseModel
from synth_pipeline.config import DreamBoothConfig
from synth_pipeline.errors import ClassFailedError, StageError
from synth_pipeline.loaded_base import LoadedBase, load_base, seed_everything
from synth_pipeline.progress import Progress, silent
from synth_pipeline.seeds import derived_seed
from synth_pipeline.store import canonical_json, file_sha256
from synth_pipeline.trainers import FullTrainer, LoraTrainer, own_copy

#: The largest norm of a step's gradient, as in the reference script.
_CLIP_NORM = 1.0


def run(
    config: DreamBoothConfig,
    *,
    class_id: str,
    class_name: str,
    images: Sequence[Path],
    base: BaseModel,
    seed: int,
    out_dir: Path,
    work_dir: Path | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Fine-tune the base on one class's training photos and write the concept.

    Args:
        config: method, steps, learning rate, batch size, rank, prompt.
        class_id: whose seed this is.
        class_name: put into the instance prompt.
        images: sanitised RGB training photos of any size.
        base: the base model.
        seed: of the study.
        out_dir: gets the weights (`pytorch_lora_weights.safetensors`, or `unet/` and
            `text_encoder/`), `card.json` and `losses.parquet`.
        work_dir: a folder for the state, saved every `config.checkpoint_steps`; run again with the
            same one, a killed training goes on and ends with the same weights (on a processor, bit
            for bit). It remembers faces too. None keeps no state.
        progress: told after each step.

    Returns:
        Seconds, and training steps per second.

    Raises:
        ClassFailedError: there is no photo, or one cannot be read.
        StageError: the loss is not finite; raised before the weights move.
    """
    if not images:
        raise ClassFailedError(class_id, "has no training photo; add one or leave the class out.")
    begun_s = time.monotonic()
    prompt = config.instance_prompt.format(class_name=class_name)
    hashes = sorted(file_sha256(path) for path in images)
    of_whom = [config.key_slice(), base.identity, prompt, class_id, seed, hashes]
    state = _State(
        work_dir / "state.pt" if work_dir else None, sha256(canonical_json(of_whom)).hexdigest()
    )
    class_seed = derived_seed(seed, "dreambooth", class_id)
    seed_everything(class_seed % 2**32)
    loaded = load_base(base) if config.method == "lora" else own_copy(base)
    resolution_px = config.resolution_px or loaded.resolution_px
    pixels_NCHW = _read_images(images, resolution_px, class_id)
    trainer = LoraTrainer(loaded, config) if config.method == "lora" else FullTrainer(loaded)
    try:
        losses = _train(
            config, loaded, trainer, pixels_NCHW, prompt, class_seed, class_id, state, progress
        )
        trainer.save(out_dir)
    finally:
        trainer.close()
    table = pa.table({"step": np.arange(len(losses), dtype=np.int32), "loss": losses})
    pq.write_table(table, out_dir / "losses.parquet")
    card = {
        "what": "A fine-tuned concept. It remembers faces: treat it as patient data.",
        "base_model": base.identity,
        "class_id": class_id,
        "instance_prompt": prompt,
        "method": config.method,
        "steps": config.steps,
        "learning_rate": config.learning_rate,
        "lr_schedule": config.lr_schedule,
        "batch_size": config.batch_size,
        "lora_rank": config.rank if config.method == "lora" else None,
        "lora_targets": config.lora_targets if config.method == "lora" else None,
        "resolution_px": resolution_px,
        "seed": seed,
        "training_images_sha256": hashes,
        "last_loss": float(np.mean(losses[-50:])),
    }
    (out_dir / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    seconds = time.monotonic() - begun_s
    return {"seconds": seconds, "steps_per_s": config.steps / seconds}


@dataclass
class _State:
    """Where the training stands, on disk.

    There is no random state in it: every step draws from a generator of its own.
    """

    path: Path | None
    identity: str

    def restore(self, weights: Sequence[torch.Tensor], moving: Mapping[str, Any]) -> list[float]:
        """Put weights and all that moves with them where they stood; returns the losses so far."""
        state = checkpoints.load(self.path, self.identity) if self.path else None
        if state is None:
            return []
        with torch.no_grad():
            for weight, kept in zip(weights, state["weights"], strict=True):
                weight.copy_(kept)
        for name, part in moving.items():
            part.load_state_dict(state[name])
        return state["losses"]

    def keep(
        self,
        weights: Sequence[torch.Tensor],
        moving: Mapping[str, Any],
        losses: Sequence[float],
    ) -> None:
        """Save all that `restore` needs."""
        if self.path is None:
            return
        state: dict[str, Any] = {name: part.state_dict() for name, part in moving.items()}
        state |= {
            "identity": self.identity,
            "weights": [weight.detach() for weight in weights],
            "losses": list(losses),
        }
        checkpoints.save(self.path, state)


def _train(
    config: DreamBoothConfig,
    loaded: LoadedBase,
    trainer: LoraTrainer | FullTrainer,
    pixels_NCHW: torch.Tensor,
    prompt: str,
    class_seed: int,
    class_id: str,
    state: _State,
    progress: Progress,
) -> list[float]:
    """The training loop; returns the loss of every step."""
    pipeline, accelerator = loaded.pipeline, loaded.accelerator
    device = accelerator.device
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    optimiser = torch.optim.AdamW(trainer.weights, lr=config.learning_rate, weight_decay=1e-2)
    schedule = get_scheduler(
        config.lr_schedule, optimiser, num_warmup_steps=0, num_training_steps=config.steps
    )
    optimiser = accelerator.prepare_optimizer(optimiser)
    moving = {"optimiser": optimiser, "schedule": schedule}
    if accelerator.scaler is not None:
        moving["scaler"] = accelerator.scaler
    means, deviations = _encode(pipeline, pixels_NCHW.to(device))
    ids = pipeline.tokenizer(
        prompt,
        padding="max_length",
        max_length=pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids.to(device)
    with torch.no_grad():
        words_1TD = pipeline.text_encoder(ids)[0]
    trainer.unet.train()
    losses: list[float] = state.restore(trainer.weights, moving)
    for step in range(len(losses), config.steps):
        # Every step has a generator of its own, so that a step never depends on how it was reached.
        generator = torch.Generator().manual_seed(derived_seed(class_seed, step))
        chosen = torch.randint(len(means), (config.batch_size,), generator=generator)
        shape = (config.batch_size, *means.shape[1:])
        spread = torch.randn(shape, generator=generator).to(device)
        latents = means[chosen] + deviations[chosen] * spread
        noise = torch.randn(shape, generator=generator).to(device)
        steps_B = torch.randint(
            scheduler.config.num_train_timesteps, (config.batch_size,), generator=generator
        ).to(device)
        noisy = scheduler.add_noise(latents, noise, steps_B)
        with accelerator.autocast():
            if trainer.trains_text:
                words_1TD = pipeline.text_encoder(ids)[0]
            words_BTD = words_1TD.expand(config.batch_size, -1, -1)
            predicted = trainer.unet(noisy, steps_B, words_BTD).sample
        wanted = (
            scheduler.get_velocity(latents, noise, steps_B)
            if scheduler.config.prediction_type == "v_prediction"
            else noise
        )
        loss = F.mse_loss(predicted.float(), wanted.float())
        if not torch.isfinite(loss):
            raise StageError(
                f"class {class_id}: the loss of step {step + 1} is not finite; "
                "lower dreambooth.learning_rate."
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trainer.weights, _CLIP_NORM)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        if (step + 1) % config.checkpoint_steps == 0 and step + 1 < config.steps:
            state.keep(trainer.weights, moving, losses)
        progress(step + 1, config.steps, f"loss {np.mean(losses[-50:]):.4f}")
    return losses


@torch.no_grad()
def _encode(
    pipeline: StableDiffusionPipeline, pixels_NCHW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each photo's latents, scaled as the UNet wants them."""
    means, deviations = [], []
    for image_CHW in pixels_NCHW:  # one at a time: at 512 px the encoder is what fills the memory
        posterior = pipeline.vae.encode(image_CHW[None]).latent_dist
        means.append(posterior.mean)
        deviations.append(posterior.std)
    scale = pipeline.vae.config.scaling_factor
    return torch.cat(means) * scale, torch.cat(deviations) * scale


def _read_images(images: Sequence[Path], resolution_px: int, class_id: str) -> torch.Tensor:
    """(N, 3, resolution, resolution) float32 in -1..1: padded to a square with grey, resized."""
    found = []
    for path in images:
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except OSError:
            raise ClassFailedError(
                class_id, "a training photo of it cannot be read; import the cases again."
            ) from None
        square = ImageOps.pad(
            image,
            (resolution_px, resolution_px),
            method=Image.Resampling.LANCZOS,
            color=(128, 128, 128),
        )
        found.append(np.asarray(square, np.float32) / 127.5 - 1)
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()
