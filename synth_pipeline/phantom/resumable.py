"""A training that can be killed at any moment and goes on from its last checkpoint."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synth_pipeline import checkpoints
from synth_pipeline.progress import Progress

_CHECKPOINT_EVERY = 100


class Training:
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
        self.identity = f"phantom {path.stem}"
        state = checkpoints.load(path, self.identity)
        if state is not None and not self._fits(state):
            checkpoints.set_aside(path, "it is of another training")
        elif state is not None:
            for name, module in modules.items():
                module.load_state_dict(state["modules"][name])
            self.optimiser.load_state_dict(state["optimiser"])
            self.ema, self.step = state["ema"], state["step"]
            self.losses, self.seconds = state["losses"], state["seconds"]

    def _fits(self, state: dict[str, Any]) -> bool:
        return (
            checkpoints.are_alike(state.get("modules"), self.ema)
            and checkpoints.are_alike(state.get("ema"), self.ema)
            and checkpoints.fits(self.optimiser, state.get("optimiser"))
            and checkpoints.are_numbers(state.get("losses"))
            and state.get("step") == len(state["losses"])
            and isinstance(state.get("seconds"), float | int)
        )

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "identity": self.identity,
            "modules": {name: m.state_dict() for name, m in self.modules.items()},
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds,
        }
        checkpoints.save(self.path, state)

    def run(
        self, loss_of_step: Callable[[int], torch.Tensor], progress: Progress, note: str
    ) -> None:
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
