"""The training loop of DreamBooth: K concepts, B samples of each in a step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer

from synth_pipeline import concept_state, spread
from synth_pipeline.concept_data import Latents, token_ids
from synth_pipeline.config import DreamBoothConfig
from synth_pipeline.diffusion import Noiser
from synth_pipeline.errors import StageError
from synth_pipeline.loaded_base import LoadedBase
from synth_pipeline.progress import Progress
from synth_pipeline.replay import Replay
from synth_pipeline.seeds import derived_seed
from synth_pipeline.trainers import Trainer

#: The largest norm of a concept's gradient, as in the reference script.
_CLIP_NORM = 1.0


class OneFailedError(Exception):
    """The loss of one concept is not finite; raised before any weight moves."""

    def __init__(self, class_id: str, error: StageError) -> None:
        super().__init__(str(error))
        self.class_id, self.error = class_id, error


@dataclass
class Learner:
    """One concept in the loop.

    Attributes:
        class_id: the class.
        prompt: the instance prompt.
        seed: of its random numbers.
        identity: of the training; a saved state of another is not gone on from.
        state: file of the state; none keeps none.
        losses: one a step, filled by the loop.
    """

    class_id: str
    prompt: str
    seed: int
    identity: str
    state: Path | None
    losses: list[float]

    def saved_steps(self) -> int:
        """How many steps its saved state has behind it."""
        return concept_state.saved_steps(self.state, self.identity) if self.state else 0


class Learning:
    """The training loop of K concepts."""

    def __init__(
        self,
        config: DreamBoothConfig,
        loaded: LoadedBase,
        trainer: Trainer,
        learners: Sequence[Learner],
        latents: Sequence[Latents],
        prior: Latents | None,
    ) -> None:
        self.config, self.trainer, self.learners = config, trainer, learners
        self.latents, self.prior = latents, prior
        self.pipeline, self.accelerator = loaded.pipeline, loaded.accelerator
        # Looked up once: a pipeline inspects its own signature for it, which takes 2 ms.
        self.device = self.pipeline.device
        self.noiser = Noiser(self.pipeline.scheduler, config.min_snr_gamma)
        prompts = [each.prompt for each in learners]
        self.ids = token_ids(self.pipeline, prompts + [config.class_prompt] * len(prompts))
        # Not by `prepare_optimizer`: the accelerator, which the base's next concepts use too, would
        # keep it, and with it the weights and their moments.
        self.optimiser = AcceleratedOptimizer(
            _optimiser(config, trainer.leaves), scaler=self.accelerator.scaler
        )
        self.averages = (
            [leaf.detach().clone() for leaf in trainer.leaves] if config.ema_decay else []
        )
        self.words: torch.Tensor | None = None

    def learned(self) -> Sequence[torch.Tensor]:
        """What is kept: the weights, or their moving average."""
        return self.averages or self.trainer.leaves

    def run(self, rows: int, progress: Progress) -> None:
        """Step to the end, from where the saved states stand."""
        config, trainer, learners = self.config, self.trainer, self.learners
        moving = concept_state.Moving(
            trainer, self.optimiser, self.averages, self.accelerator.scaler
        )
        for learner, losses in zip(
            learners, moving.restore([(t.state, t.identity) for t in learners]), strict=True
        ):
            learner.losses = losses
        if not trainer.trains_text:
            with torch.no_grad(), self.accelerator.autocast():
                self.words = self.pipeline.text_encoder(self.ids)[0]
        # A text encoder and checkpoints wait for the GPU, and no recording can.
        recorded = not (trainer.trains_text or trainer.pipeline.unet.is_gradient_checkpointing)
        learn = Replay(self._gradients) if recorded else self._gradients
        for step in range(len(learners[0].losses), config.steps):
            for group in self.optimiser.param_groups:
                group["lr"] = config.learning_rate * _rate(config, step)
            losses_K = self._backward(step, rows, learn)
            for learner, loss in zip(learners, losses_K.tolist(), strict=True):
                if not math.isfinite(loss):
                    sentence = (
                        f"class {learner.class_id}: the loss of step {step + 1} is not "
                        "finite; lower dreambooth.learning_rate."
                    )
                    raise OneFailedError(learner.class_id, StageError(sentence))
                learner.losses.append(loss)
            self.accelerator.unscale_gradients(self.optimiser)
            trainer.clip(_CLIP_NORM)
            self.optimiser.step()
            trainer.forget_gradients()
            self._average(step)
            if (step + 1) % config.checkpoint_steps == 0 and step + 1 < config.steps:
                for number, learner in enumerate(learners):
                    if learner.state:
                        moving.save(learner.state, learner.identity, number, learner.losses)
            recent = np.mean([each.losses[-50:] for each in learners])
            progress(step + 1, config.steps, f"loss {recent:.4f}")

    def _backward(self, step: int, rows: int, learn: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Gradients of one step, `rows` samples of each concept at a time; the losses, (K,)."""
        count = self.config.batch_size * self.config.gradient_accumulation
        drawn = [self._draw(number, count, step) for number in range(len(self.learners))]
        losses_K = torch.zeros(len(self.learners), device=self.device)
        for start in range(0, count, rows):
            part = slice(start, min(start + rows, count))
            # Concept after concept; of each its own samples, then those of prior preservation.
            losses_K += learn(
                *(
                    torch.cat([torch.cat([kind[i][part] for kind in of]) for of in drawn])
                    for i in range(3)
                )
            )
        return losses_K

    def _gradients(
        self, latents: torch.Tensor, noise: torch.Tensor, at: torch.Tensor
    ) -> torch.Tensor:
        """Add what a part of a step's samples gives; its part of the losses, (K,)."""
        kinds = 1 if self.prior is None else 2
        rows = len(latents) // (len(self.learners) * kinds)
        share = rows / (self.config.batch_size * self.config.gradient_accumulation)
        with self.accelerator.autocast():
            words = self._words(rows)
            predicted = self.trainer.pipeline.unet(
                self.noiser.noised(latents, noise, at), at, words
            ).sample
        loss_KB = self.noiser.loss(predicted, latents, noise, at).view(len(self.learners), -1)
        own_K = loss_KB[:, :rows].mean(dim=1)
        if self.prior is not None:
            own_K = own_K + self.config.prior_weight * loss_KB[:, rows:].mean(dim=1)
        self.accelerator.backward(own_K.sum() * share)
        return own_K.detach() * share

    def _draw(self, number: int, count: int, step: int) -> list[tuple[torch.Tensor, ...]]:
        """A concept's latents, noise and times of one step, and those of prior preservation.

        Every step has a generator of its own, on the processor: a step never depends on how it was
        reached, nor on which other concepts are learned beside. Pictures and times are spread
        evenly over the steps, which learns the same in fewer of them.
        """
        seed = self.learners[number].seed
        generator = torch.Generator().manual_seed(derived_seed(seed, step))
        device = self.device
        places = range(step * count, (step + 1) * count)
        found = []
        for kind, source in (("own", self.latents[number]), ("prior", self.prior)):
            if source is None:
                continue
            shape = (count, *source.mean.shape[1:])
            who = derived_seed(seed, kind)
            chosen = torch.tensor([spread.turn(len(source.mean), n, who) for n in places])
            at = self.noiser.times([spread.share(n, who) for n in places])
            deviation = torch.randn(shape, generator=generator).to(device)
            noise = torch.randn(shape, generator=generator).to(device)
            chosen, at = chosen.to(device), at.to(device)
            found.append((source.mean[chosen] + source.deviation[chosen] * deviation, noise, at))
        return found

    def _words(self, rows: int) -> torch.Tensor:
        """The prompts' embeddings in the order of the batch, (K·B, T, D)."""
        concepts = len(self.learners)
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


def _optimiser(config: DreamBoothConfig, leaves: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
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
