"""Fine-tune classes: DreamBooth (Ruiz et al. 2023, section 3), by LoRA or in full.

What does not change is computed once: the latents' distributions of the training photos or of
their morphs, the class images of prior preservation, and the prompts' embeddings where the text
encoder does not learn. LoRA learns several concepts in one batch; each has its own random numbers,
its own gradient bound and its own moments, so it learns what it would learn alone.

Shapes: K concepts, B samples of each in a step.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import release_memory

from synth_pipeline.base_model import BaseModel
from synth_pipeline.concept_data import Latents, prior_latents, read_latents
from synth_pipeline.concept_learning import Learner, Learning, OneFailedError
from synth_pipeline.config import DreamBoothConfig
from synth_pipeline.errors import ClassFailedError, StageError, SynthPipelineError
from synth_pipeline.loaded_base import is_out_of_memory, load_base
from synth_pipeline.progress import Progress, silent
from synth_pipeline.seeds import derived_seed
from synth_pipeline.store import canonical_json, file_sha256
from synth_pipeline.trainers import FullTrainer, LoraTrainer, Trainer, own_copy

logger = logging.getLogger("synth_pipeline")

#: For each class id its figures, or why there are none.
_Done = dict[str, dict[str, float] | SynthPipelineError]


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
        points_px: (N, 478, 3) landmarks of the photos, not-a-number without a face; needed where
            `config.morphs` is on.
    """

    class_id: str
    class_name: str
    images: Sequence[Path]
    out_dir: Path
    work_dir: Path | None = None
    points_px: np.ndarray | None = None


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
    points_px: np.ndarray | None = None,
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
        points_px: see `Concept`.
        class_images: a `class-images` artifact, where `config.prior_weight` is above 0.
        progress: told after each step.

    Returns:
        Seconds, and training steps per second.

    Raises:
        ClassFailedError: there is no photo, or one cannot be read.
        StageError: the loss is not finite (raised before the weights move), or the memory is too
            small for a smaller batch too.
    """
    concept = Concept(class_id, class_name, images, out_dir, work_dir, points_px)
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
) -> _Done:
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
    done: _Done = {}
    waiting = []
    for concept in concepts:
        if not concept.images:
            done[concept.class_id] = ClassFailedError(
                concept.class_id, "has no training photo; add one or leave the class out."
            )
        elif config.morphs and concept.points_px is None:
            done[concept.class_id] = ClassFailedError(
                concept.class_id,
                "is to be learned from morphs, and no landmarks of its photos are given; pass "
                "points_px, or switch dreambooth.morphs off.",
            )
        else:
            waiting.append(_task(config, concept, base, seed))
    together = [waiting] if config.method == "lora" else [[task] for task in waiting]
    for tasks in together:
        while tasks:
            try:
                done |= _tune(config, tasks, base, seed, class_images, progress)
                break
            except OneFailedError as failed:
                # The others go on from their last saved state.
                done[failed.class_id] = failed.error
                tasks = [task for task in tasks if task.concept.class_id != failed.class_id]
    return done


@dataclass(frozen=True)
class _Task:
    """A concept, the landmarks to morph by, its photos' hashes, and its place in the loop."""

    concept: Concept
    points_px: np.ndarray | None
    hashes: list[str]
    learner: Learner


def _task(config: DreamBoothConfig, concept: Concept, base: BaseModel, seed: int) -> _Task:
    class_id = concept.class_id
    prompt = config.instance_prompt.format(class_name=concept.class_name)
    hashes = sorted(file_sha256(path) for path in concept.images)
    points_px = concept.points_px if config.morphs else None
    points = sha256(points_px.tobytes()).hexdigest() if points_px is not None else None
    whose = [config.key_slice(), base.identity, prompt, class_id, seed, hashes, points]
    learner = Learner(
        class_id=class_id,
        prompt=prompt,
        seed=derived_seed(seed, "dreambooth", class_id),
        identity=sha256(canonical_json(whose)).hexdigest(),
        state=concept.work_dir / "state.pt" if concept.work_dir else None,
        losses=[],
    )
    return _Task(concept, points_px, hashes, learner)


def _tune(
    config: DreamBoothConfig,
    tasks: Sequence[_Task],
    base: BaseModel,
    seed: int,
    class_images: Path | None,
    progress: Progress,
) -> _Done:
    """Train concepts together, or fewer of them at once when the memory does not hold them."""
    done: _Done = {}
    # A batch takes one step for all; states that a killed run left may stand at different ones.
    by_steps: dict[int, list[_Task]] = {}
    for task in tasks:
        by_steps.setdefault(task.learner.saved_steps(), []).append(task)
    for group in by_steps.values():
        attempt = _Attempt(config, base, seed, class_images, progress)
        trained = attempt.train_if_it_fits(group, rows=config.batch_size)
        done |= _tune_smaller(attempt, group) if trained is None else trained
    return done


def _tune_smaller(attempt: "_Attempt", tasks: Sequence[_Task]) -> _Done:
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
    done: _Done = {}
    for half in halves:
        trained = attempt.train_if_it_fits(half, rows=rows)
        if trained is not None:
            done |= trained
            continue
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

    def train_if_it_fits(self, tasks: Sequence[_Task], rows: int) -> _Done | None:
        """As `train`, or None; what was in the memory is out of it for what comes next."""
        try:
            return self.train(tasks, rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            # Scaling the loss, in fp16, ties an optimiser to itself: it waits for a collection.
            if torch.cuda.is_available():
                release_memory()

    def train(self, tasks: Sequence[_Task], rows: int) -> _Done:
        """Train concepts in one batch, `rows` samples of each at a time, and write them."""
        begun_s = time.monotonic()
        config = self.config
        lora = config.method == "lora"
        loaded = load_base(self.base) if lora else own_copy(self.base)
        resolution_px = config.resolution_px or loaded.resolution_px
        latents, readable = [], []
        done: _Done = {}
        for task in tasks:
            concept = task.concept
            try:
                latents.append(
                    read_latents(
                        loaded,
                        concept.images,
                        resolution_px,
                        concept.class_id,
                        task.points_px,
                    )
                )
                readable.append(task)
            except ClassFailedError as error:
                done[concept.class_id] = error
        if not readable:
            return done
        prior = None
        if config.prior_weight:
            assert self.class_images is not None, "prior preservation needs class images"
            prior = prior_latents(loaded, self.base.identity, self.class_images, resolution_px)
        unet = loaded.pipeline.unet
        trainer: Trainer = (
            LoraTrainer(loaded, config, [task.learner.seed for task in readable])
            if lora
            else FullTrainer(loaded)
        )
        try:
            unet.train()
            if self.checkpointing or config.gradient_checkpointing:
                unet.enable_gradient_checkpointing()
            learners = [task.learner for task in readable]
            learning = Learning(config, loaded, trainer, learners, latents, prior)
            learning.run(rows, self.progress)
            took_s = time.monotonic() - begun_s
            for number, task in enumerate(readable):
                trainer.save(number, learning.learned(), task.concept.out_dir)
                self._describe(task, resolution_px, latents[number])
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

    def _describe(self, task: _Task, resolution_px: int, learned: Latents) -> None:
        """Write the losses and the card."""
        # Thirty megabytes that the training does without.
        import pyarrow as pa
        import pyarrow.parquet as pq

        out_dir, losses = task.concept.out_dir, task.learner.losses
        table = pa.table({"step": np.arange(len(losses), dtype=np.int32), "loss": losses})
        pq.write_table(table, out_dir / "losses.parquet")
        card = {
            "what": "A fine-tuned concept. It remembers faces: treat it as patient data.",
            "base_model": self.base.identity,
            "class_id": task.concept.class_id,
            "instance_prompt": task.learner.prompt,
            "settings": self.config.key_slice(),
            "resolution_px": resolution_px,
            "seed": self.seed,
            "training_images_sha256": task.hashes,
            "learned_from": f"{len(learned.mean)} {'morphs' if learned.morphs else 'photos'}",
            "last_loss": float(np.mean(losses[-50:])),
        }
        (out_dir / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
