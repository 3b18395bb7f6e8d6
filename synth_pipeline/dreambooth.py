"""Fine-tune classes: DreamBooth (Ruiz et al. 2023, section 3), by LoRA or in full.

What does not change is computed once: the latents' distributions of the training photos, the
class images of prior preservation, and the prompts' embeddings where the text encoder does not
learn. LoRA learns several concepts in one batch; each has its own random numbers, its own gradient
bound and its own moments, so it learns what it would learn alone.

Shapes: K concepts, B samples of each in a step.
"""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from synth_pipeline import concept_state
from synth_pipeline.base_model import BaseModel
from synth_pipeline.concept_data import Latents, prior_latents, read_latents, token_ids
from synth_pipeline.config import DreamBoothConfig
from synth_pipeline.diffusion import Noiser
from synth_pipeline.errors import ClassFailedError, StageError, SynthPipelineError
from synth_pipeline.loaded_base import LoadedBase, is_out_of_memory, load_base
from synth_pipeline.progress import Progress, silent
from synth_pipeline.seeds import derived_seed
from synth_pipeline.store import canonical_json, file_sha256
from synth_pipeline.trainers import FullTrainer, LoraTrainer, Trainer, own_copy

logger = logging.getLogger("synth_pipeline")

#: The largest norm of a concept's gradient, as in the reference script.
_CLIP_NORM = 1.0


@dataclass(frozen=True)
class Concept:
    """A class to be learned.

    Attributes:
        class_id: whose seed this is.
        class_name: put into the instance prompt.
        images: sanitised RGB training photos of any size.
        out_dir: gets the weights (`pytorch_lora_weights.safetensors`, or `unet/` and
            `text_encoder/`), `card.json` and `losses.parquet`.
        work_dir: a folder for the state, saved every `checkpoint_steps`; run again with the same
            one, a killed training goes on and ends with the same weights (on a processor, bit for
            bit). It remembers faces too. None keeps no state.
    """

    class_id: str
    class_name: str
    images: Sequence[Path]
    out_dir: Path
    work_dir: Path | None = None


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
    class_images: Path | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Fine-tune the base on one class's training photos and write the concept.

    Args:
        config: method, steps, learning rate, batch size, rank, prompt.
        class_id: see `Concept`.
        class_name: see `Concept`.
        images: see `Concept`.
        base: the base model.
        seed: of the study.
        out_dir: see `Concept`.
        work_dir: see `Concept`.
        class_images: a `class-images` artifact, where `config.prior_weight` is above 0.
        progress: told after each step.

    Returns:
        Seconds, and training steps per second.

    Raises:
        ClassFailedError: there is no photo, or one cannot be read.
        StageError: the loss is not finite (raised before the weights move), or the memory is too
            small for a smaller batch too.
    """
    concept = Concept(class_id, class_name, images, out_dir, work_dir)
    done = run_together(
        config, [concept], base=base, seed=seed, class_images=class_images, progress=progress
    )[class_id]
    if isinstance(done, SynthPipelineError):
        raise done
    return done


def run_together(
    config: DreamBoothConfig,
    concepts: Sequence[Concept],
    *,
    base: BaseModel,
    seed: int,
    class_images: Path | None = None,
    progress: Progress = silent,
) -> dict[str, dict[str, float] | SynthPipelineError]:
    """Fine-tune several classes in one batch; the failure of one is its own.

    Args:
        config: as of `run`; in full, the classes are trained one after another.
        concepts: the classes.
        base: the base model.
        seed: of the study.
        class_images: as of `run`.
        progress: told after each step.

    Returns:
        For each class id what `run` returns, or the error that it raises.
    """
    done: dict[str, dict[str, float] | SynthPipelineError] = {}
    waiting = []
    for concept in concepts:
        if not concept.images:
            done[concept.class_id] = ClassFailedError(
                concept.class_id, "has no training photo; add one or leave the class out."
            )
        else:
            waiting.append(_Task(config, concept, base, seed))
    together = [waiting] if config.method == "lora" else [[task] for task in waiting]
    for tasks in together:
        while tasks:
            try:
                done |= _tune(config, tasks, base, seed, class_images, progress)
                break
            except _OneFailedError as failed:
                # The others go on from their last saved state.
                done[failed.class_id] = failed.error
                tasks = [task for task in tasks if task.concept.class_id != failed.class_id]
    return done


class _OneFailedError(Exception):
    def __init__(self, class_id: str, error: SynthPipelineError) -> None:
        super().__init__(str(error))
        self.class_id, self.error = class_id, error


class _Task:
    """A concept with all that follows from it and the settings."""

    def __init__(
        self, config: DreamBoothConfig, concept: Concept, base: BaseModel, seed: int
    ) -> None:
        self.concept = concept
        self.prompt = config.instance_prompt.format(class_name=concept.class_name)
        self.hashes = sorted(file_sha256(path) for path in concept.images)
        self.seed = derived_seed(seed, "dreambooth", concept.class_id)
        whose = [
            config.key_slice(),
            base.identity,
            self.prompt,
            concept.class_id,
            seed,
            self.hashes,
        ]
        self.identity = sha256(canonical_json(whose)).hexdigest()
        self.state = concept.work_dir / "state.pt" if concept.work_dir else None
        self.losses: list[float] = []

    def saved_steps(self) -> int:
        """How many steps its saved state has behind it."""
        return concept_state.saved_steps(self.state, self.identity) if self.state else 0


def _tune(
    config: DreamBoothConfig,
    tasks: Sequence[_Task],
    base: BaseModel,
    seed: int,
    class_images: Path | None,
    progress: Progress,
) -> dict[str, dict[str, float] | SynthPipelineError]:
    """Train concepts together, or fewer of them at once when the memory does not hold them."""
    done: dict[str, dict[str, float] | SynthPipelineError] = {}
    # A batch takes one step for all; states that a killed run left may stand at different ones.
    by_steps: dict[int, list[_Task]] = {}
    for task in tasks:
        by_steps.setdefault(task.saved_steps(), []).append(task)
    for group in by_steps.values():
        attempt = _Attempt(config, base, seed, class_images, progress)
        try:
            done |= attempt.train(group, rows=config.batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            done |= _tune_smaller(attempt, group)
    return done


def _tune_smaller(
    attempt: "_Attempt", tasks: Sequence[_Task]
) -> dict[str, dict[str, float] | SynthPipelineError]:
    """Once more, with half as much in the memory at a time and the same result."""
    middle = (len(tasks) + 1) // 2
    halves = [half for half in (tasks[:middle], tasks[middle:]) if half]
    rows = (attempt.config.batch_size + 1) // 2 if len(tasks) == 1 else attempt.config.batch_size
    logger.warning(
        "not enough memory to learn %d concept(s) with %d picture(s) each at a time; trying %d "
        "with %d and gradient checkpointing",
        len(tasks),
        attempt.config.batch_size,
        middle,
        rows,
    )
    attempt.checkpointing = True
    done: dict[str, dict[str, float] | SynthPipelineError] = {}
    for half in halves:
        try:
            done |= attempt.train(half, rows=rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            for task in half:
                class_id = task.concept.class_id
                done[class_id] = StageError(
                    f"class {class_id}: the memory is too small for fine-tuning; lower "
                    "dreambooth.resolution_px, choose method lora, or use a larger machine."
                )
    return done


@dataclass
class _Attempt:
    """One way to train: how much of the batch is in the memory at a time changes no result."""

    config: DreamBoothConfig
    base: BaseModel
    seed: int
    class_images: Path | None
    progress: Progress
    checkpointing: bool = False

    def train(
        self, tasks: Sequence[_Task], rows: int
    ) -> dict[str, dict[str, float] | SynthPipelineError]:
        """Train concepts in one batch, `rows` samples of each at a time, and write them."""
        begun_s = time.monotonic()
        config = self.config
        lora = config.method == "lora"
        loaded = load_base(self.base) if lora else own_copy(self.base)
        resolution_px = config.resolution_px or loaded.resolution_px
        latents, readable = [], []
        done: dict[str, dict[str, float] | SynthPipelineError] = {}
        for task in tasks:
            concept = task.concept
            try:
                latents.append(
                    read_latents(loaded, concept.images, resolution_px, concept.class_id)
                )
                readable.append(task)
            except ClassFailedError as error:
                done[concept.class_id] = error
        if not readable:
            return done
        prior = None
        if config.prior_weight:
            assert self.class_images is not None, "prior preservation needs class images"
            prior = prior_latents(loaded, self.class_images, resolution_px)
        unet = loaded.pipeline.unet
        trainer: Trainer = (
            LoraTrainer(loaded, config, [task.seed for task in readable])
            if lora
            else FullTrainer(loaded)
        )
        try:
            unet.train()
            if self.checkpointing or config.gradient_checkpointing:
                unet.enable_gradient_checkpointing()
            learning = _Learning(config, loaded, trainer, readable, latents, prior)
            learning.run(rows, self.progress)
            took_s = time.monotonic() - begun_s
            for number, task in enumerate(readable):
                trainer.save(number, learning.learned(), task.concept.out_dir)
                self._describe(task, resolution_px)
                done[task.concept.class_id] = {
                    "seconds": took_s / len(readable),
                    "steps_per_s": config.steps * len(readable) / took_s,
                    "concepts_at_once": len(readable),
                }
        finally:
            trainer.close()
            unet.disable_gradient_checkpointing()
            unet.eval()
        return done

    def _describe(self, task: _Task, resolution_px: int) -> None:
        """Write the losses and the card."""
        out_dir, losses = task.concept.out_dir, task.losses
        table = pa.table({"step": np.arange(len(losses), dtype=np.int32), "loss": losses})
        pq.write_table(table, out_dir / "losses.parquet")
        card = {
            "what": "A fine-tuned concept. It remembers faces: treat it as patient data.",
            "base_model": self.base.identity,
            "class_id": task.concept.class_id,
            "instance_prompt": task.prompt,
            "settings": self.config.key_slice(),
            "resolution_px": resolution_px,
            "seed": self.seed,
            "training_images_sha256": task.hashes,
            "last_loss": float(np.mean(losses[-50:])),
        }
        (out_dir / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


class _Learning:
    """The training loop of K concepts."""

    def __init__(
        self,
        config: DreamBoothConfig,
        loaded: LoadedBase,
        trainer: Trainer,
        tasks: Sequence[_Task],
        latents: Sequence[Latents],
        prior: Latents | None,
    ) -> None:
        self.config, self.trainer, self.tasks = config, trainer, tasks
        self.latents, self.prior = latents, prior
        self.pipeline, self.accelerator = loaded.pipeline, loaded.accelerator
        self.noiser = Noiser(self.pipeline.scheduler, config.min_snr_gamma)
        prompts = [task.prompt for task in tasks]
        self.ids = token_ids(self.pipeline, prompts + [config.class_prompt] * len(prompts))
        self.optimiser = self.accelerator.prepare_optimizer(new_optimiser(config, trainer.leaves))
        self.averages = (
            [leaf.detach().clone() for leaf in trainer.leaves] if config.ema_decay else []
        )
        self.words: torch.Tensor | None = None

    def learned(self) -> Sequence[torch.Tensor]:
        """What is kept: the weights, or their moving average."""
        return self.averages or self.trainer.leaves

    def run(self, rows: int, progress: Progress) -> None:
        """Step to the end, from where the saved states stand."""
        config, trainer, tasks = self.config, self.trainer, self.tasks
        moving = concept_state.Moving(
            trainer, self.optimiser, self.averages, self.accelerator.scaler
        )
        for task, losses in zip(
            tasks, moving.restore([(t.state, t.identity) for t in tasks]), strict=True
        ):
            task.losses = losses
        if not trainer.trains_text:
            with torch.no_grad(), self.accelerator.autocast():
                self.words = self.pipeline.text_encoder(self.ids)[0]
        for step in range(len(tasks[0].losses), config.steps):
            for group in self.optimiser.param_groups:
                group["lr"] = config.learning_rate * _rate(config, step)
            losses_K = self._backward(step, rows)
            for task, loss in zip(tasks, losses_K.tolist(), strict=True):
                if not math.isfinite(loss):
                    sentence = (
                        f"class {task.concept.class_id}: the loss of step {step + 1} is not "
                        "finite; lower dreambooth.learning_rate."
                    )
                    raise _OneFailedError(task.concept.class_id, StageError(sentence))
                task.losses.append(loss)
            self.accelerator.unscale_gradients(self.optimiser)
            trainer.clip(_CLIP_NORM)
            self.optimiser.step()
            trainer.forget_gradients()
            self._average(step)
            if (step + 1) % config.checkpoint_steps == 0 and step + 1 < config.steps:
                for number, task in enumerate(tasks):
                    if task.state:
                        moving.save(task.state, task.identity, number, task.losses)
            recent = np.mean([task.losses[-50:] for task in tasks])
            progress(step + 1, config.steps, f"loss {recent:.4f}")

    def _backward(self, step: int, rows: int) -> torch.Tensor:
        """Gradients of one step, `rows` samples of each concept at a time; the losses, (K,)."""
        count = self.config.batch_size * self.config.gradient_accumulation
        drawn = [self._draw(number, count, step) for number in range(len(self.tasks))]
        losses_K = torch.zeros(len(self.tasks))
        for start in range(0, count, rows):
            part = slice(start, min(start + rows, count))
            share = (part.stop - start) / count
            # Concept after concept; of each its own samples, then those of prior preservation.
            latents, noise, at = (
                torch.cat([torch.cat([kind[i][part] for kind in of]) for of in drawn])
                for i in range(3)
            )
            with self.accelerator.autocast():
                words = self._words(part.stop - start)
                predicted = self.trainer.pipeline.unet(
                    self.noiser.noised(latents, noise, at), at, words
                ).sample
            loss_KB = self.noiser.loss(predicted, latents, noise, at).view(len(self.tasks), -1)
            own_K = loss_KB[:, : part.stop - start].mean(dim=1)
            if self.prior is not None:
                others_K = loss_KB[:, part.stop - start :].mean(dim=1)
                own_K = own_K + self.config.prior_weight * others_K
            self.accelerator.backward(own_K.sum() * share)
            losses_K += own_K.detach().cpu() * share
        return losses_K

    def _draw(self, number: int, count: int, step: int) -> list[tuple[torch.Tensor, ...]]:
        """A concept's latents, noise and times of one step, and those of prior preservation.

        Every step has a generator of its own, on the processor: a step never depends on how it was
        reached, nor on which other concepts are learned beside.
        """
        generator = torch.Generator().manual_seed(derived_seed(self.tasks[number].seed, step))
        device = self.pipeline.device
        found = []
        for source in (self.latents[number], self.prior):
            if source is None:
                continue
            shape = (count, *source.mean.shape[1:])
            chosen = torch.randint(len(source.mean), (count,), generator=generator).to(device)
            spread = torch.randn(shape, generator=generator).to(device)
            noise = torch.randn(shape, generator=generator).to(device)
            at = torch.randint(self.noiser.times, (count,), generator=generator).to(device)
            found.append((source.mean[chosen] + source.deviation[chosen] * spread, noise, at))
        return found

    def _words(self, rows: int) -> torch.Tensor:
        """The prompts' embeddings in the order of the batch, (K·B, T, D)."""
        concepts = len(self.tasks)
        if self.words is None and self.prior is None:
            own = self.pipeline.text_encoder(self.ids[:concepts])[0]
            return own.repeat_interleave(rows, dim=0)
        words = self.words
        if words is None:
            # The class prompt goes through each concept's own adapters too.
            order = [i for n in range(concepts) for i in (n, concepts + n)]
            words = self.pipeline.text_encoder(self.ids[order])[0]
            words = torch.cat([words[0::2], words[1::2]])
        own = words[:concepts].repeat_interleave(rows, dim=0)
        if self.prior is None:
            return own
        others = words[concepts:].repeat_interleave(rows, dim=0)
        pairs = zip(own.split(rows), others.split(rows), strict=True)
        return torch.cat([each for pair in pairs for each in pair])

    def _average(self, step: int) -> None:
        """Move the averages a little towards the weights; early ones count less."""
        if not self.config.ema_decay:
            return
        decay = min(self.config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for average, leaf in zip(self.averages, self.trainer.leaves, strict=True):
                average.lerp_(leaf, 1 - decay)


def new_optimiser(
    config: DreamBoothConfig, leaves: Sequence[torch.Tensor]
) -> torch.optim.Optimizer:
    """AdamW as in the reference script, with moments of 32 or of 8 bits."""
    if config.optimiser == "adamw-8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(leaves, lr=config.learning_rate, weight_decay=1e-2)
    # Fused: one pass over each weight instead of a dozen.
    return torch.optim.AdamW(leaves, lr=config.learning_rate, weight_decay=1e-2, fused=True)


def _rate(config: DreamBoothConfig, step: int) -> float:
    """The learning rate of a step as a share of the highest."""
    if config.lr_schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * step / config.steps))
