"""What moves while a fold is trained, and how it is kept so that a killed one goes on.

There is no random state in it: each epoch's order, dropout and augmentation come from seeds.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from synth_pipeline import checkpoints

History = list[tuple[int, float, float, float]]


class Averages:
    """A moving average of a network's weights, over about the last `horizon` steps."""

    def __init__(self, model: torch.nn.Module, horizon: float) -> None:
        self._model = model
        self._decay = 1 - 1 / max(horizon, 1)
        self.values = {name: value.clone() for name, value in _moving(model).items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move a little towards the weights; early ones count less."""
        decay = min(self._decay, (step + 1) / (step + 10))
        # `lerp_` of a list is one call for hundreds of tensors.
        torch._foreach_lerp_(
            list(self.values.values()), list(_moving(self._model).values()), 1 - decay
        )

    @torch.no_grad()
    def swap(self) -> None:
        """Put the averages into the network and its own weights aside, or back."""
        for name, value in _moving(self._model).items():
            aside = self.values[name].clone()
            self.values[name].copy_(value)
            value.copy_(aside)


def _moving(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


@dataclass
class FoldState:
    """A fold in training.

    Attributes:
        model: the network.
        optimiser: its AdamW.
        averages: of its weights, or none.
        scaler: of half-precision gradients.
        history: of each epoch its number, training loss, validation loss and accuracy.
        kept: the weights of the best epoch so far.
        kept_epoch: which that was, from 1.
    """

    model: torch.nn.Module
    optimiser: torch.optim.Optimizer
    averages: Averages | None
    scaler: torch.amp.GradScaler
    history: History = field(default_factory=list)
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    kept_epoch: int = 0
    _saved_s: float = field(default_factory=time.monotonic)

    def keep(self) -> None:
        """Take the network's weights as the best so far."""
        self.kept = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        self.kept_epoch = len(self.history)

    def save(self, path: Path, identity: str, every_s: float) -> None:
        """Save, unless it was done less than so many seconds ago."""
        if time.monotonic() - self._saved_s < every_s:
            return
        state: dict[str, Any] = {
            "identity": identity,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averages": self.averages.values if self.averages else {},
            "scaler": self.scaler.state_dict(),
            "history": [list(row) for row in self.history],
            "kept": self.kept,
            "kept_epoch": self.kept_epoch,
        }
        checkpoints.save(path, state)
        self._saved_s = time.monotonic()

    def restore(self, path: Path, identity: str) -> None:
        """Go on from what was saved, if it is of this fold."""
        state = checkpoints.load(path, identity)
        if state is None:
            return
        if not self._fits(state):
            checkpoints.set_aside(path, "it is of another kind of training")
            return
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.averages:
            for name, value in self.averages.values.items():
                value.copy_(state["averages"][name])
        self.scaler.load_state_dict(state["scaler"])
        self.history = [(row[0], row[1], row[2], row[3]) for row in state["history"]]
        self.kept, self.kept_epoch = state["kept"], state["kept_epoch"]

    def _fits(self, state: dict[str, Any]) -> bool:
        """Whether a state has the form of what moves here."""
        weights, history, kept = self.model.state_dict(), state.get("history"), state.get("kept")
        averages = self.averages.values if self.averages else {}
        return (
            checkpoints.are_alike(state.get("model"), weights)
            and checkpoints.are_alike(kept, weights)
            and checkpoints.are_alike(state.get("averages"), averages)
            and checkpoints.fits(self.optimiser, state.get("optimiser"))
            and isinstance(state.get("scaler"), dict)
            and isinstance(history, list)
            and all(checkpoints.are_numbers(row) and len(row) == 4 for row in history)
            and isinstance(state.get("kept_epoch"), int)
            and 1 <= state["kept_epoch"] <= len(history)
        )
