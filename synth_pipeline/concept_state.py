"""The state of a fine-tuning, saved for each concept apart, in the order of its steps.

There is no random state in it: every step draws from a generator of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synth_pipeline import checkpoints
from synth_pipeline.trainers import Trainer


def saved_steps(path: Path, identity: str) -> int:
    """How many steps the state at a path has behind it; 0 where there is none of this training."""
    state = _load(path, identity)
    return len(state["losses"]) if state else 0


def _load(path: Path, identity: str) -> dict[str, Any] | None:
    """A state whose losses are numbers; none, or one that was set aside, is none."""
    state = checkpoints.load(path, identity)
    if state is not None and not checkpoints.are_numbers(state.get("losses")):
        checkpoints.set_aside(path, "it lacks the losses")
        return None
    return state


@dataclass
class Moving:
    """All that moves while K concepts learn.

    Attributes:
        trainer: its leaves move.
        optimiser: has moments for each leaf.
        averages: as many as leaves, or none.
        scaler: of half-precision gradients, or none.
    """

    trainer: Trainer
    optimiser: torch.optim.Optimizer
    averages: Sequence[torch.Tensor]
    scaler: Any

    def save(self, path: Path, identity: str, concept: int, losses: Sequence[float]) -> None:
        """Save one concept's part in one step."""
        leaves, part = self.trainer.leaves, self.trainer.part
        moments = self.optimiser.state_dict()["state"]
        state = {
            "identity": identity,
            "losses": list(losses),
            "weights": [part(leaf.detach(), leaf, concept) for leaf in leaves],
            "averages": [
                part(average, leaf, concept)
                for average, leaf in zip(self.averages, leaves, strict=False)
            ],
            "moments": [
                {name: _part(part, value, leaf, concept) for name, value in moments[i].items()}
                for i, leaf in enumerate(leaves)
            ],
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        checkpoints.save(path, state)

    def restore(self, saved: Sequence[tuple[Path | None, str]]) -> list[list[float]]:
        """Put everything where it stood.

        Args:
            saved: path and identity of each concept's state; all stand at the same step.

        Returns:
            Each concept's losses so far.
        """
        found = [self._load(path, identity) if path else None for path, identity in saved]
        states = [state for state in found if state]
        if len(states) < len(found):
            return [[] for _ in found]
        leaves, join = self.trainer.leaves, self.trainer.join
        with torch.no_grad():
            for i, leaf in enumerate(leaves):
                leaf.copy_(join([state["weights"][i] for state in states], leaf))
            for i, average in enumerate(self.averages):
                average.copy_(join([state["averages"][i] for state in states], leaves[i]))
        whole = self.optimiser.state_dict()
        whole["state"] = {
            i: {
                name: _join(join, [state["moments"][i][name] for state in states], leaf)
                for name in states[0]["moments"][i]
            }
            for i, leaf in enumerate(leaves)
        }
        self.optimiser.load_state_dict(whole)
        if self.scaler:
            self.scaler.load_state_dict(states[0]["scaler"])
        return [state["losses"] for state in states]

    def _load(self, path: Path, identity: str) -> dict[str, Any] | None:
        """A state that has the form of what moves here; another is set aside."""
        state = _load(path, identity)
        if state is not None and not self._fits(state):
            checkpoints.set_aside(path, "it is of another kind of training")
            return None
        return state

    def _fits(self, state: dict[str, Any]) -> bool:
        leaves, part = self.trainer.leaves, self.trainer.part
        of_one = [part(leaf.detach(), leaf, 0) for leaf in leaves]
        moments = state.get("moments")
        return (
            checkpoints.are_alike(state.get("weights"), of_one)
            and checkpoints.are_alike(state.get("averages"), of_one[: len(self.averages)])
            and isinstance(moments, list)
            and len(moments) == len(leaves)
            and all(isinstance(each, dict) and each for each in moments)
            and isinstance(state.get("scaler"), dict) == bool(self.scaler)
        )


def _part(part: Any, value: Any, leaf: torch.Tensor, concept: int) -> Any:
    return part(value, leaf, concept) if isinstance(value, torch.Tensor) else value


def _join(join: Any, values: Sequence[Any], leaf: torch.Tensor) -> Any:
    return join(values, leaf) if isinstance(values[0], torch.Tensor) else values[0]
