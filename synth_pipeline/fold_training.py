"""The training loop of one fold.

N pictures, K classes. Validation pictures come from the training set: the held-out photos are not
known here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from synth_pipeline import augmentation, backbones
from synth_pipeline.backbone_weights import Pretrained
from synth_pipeline.backbones import InputNorm
from synth_pipeline.config import RecognitionConfig
from synth_pipeline.errors import InputError, StageError
from synth_pipeline.fold_state import Averages, FoldState
from synth_pipeline.picture_store import Pictures
from synth_pipeline.progress import Progress
from synth_pipeline.protocols import PROTOCOLS, parameter_groups, rate_of_step
from synth_pipeline.seeds import derived_seed


@dataclass(frozen=True)
class Fold:
    """What one fold learns from.

    Attributes:
        backbone: ours, or of timm.
        number: of the fold, from 0.
        seed: of the study.
        pictures: N of training and validation.
        labels: (N,) int64.
        names: N texts, each picture's own, from which its augmentation is drawn.
        train_idx: what is learned from.
        validation_idx: what it is judged by after each epoch.
        classes: K.
        identity: of all that decides the outcome, for a saved state.
    """

    backbone: str
    number: int
    seed: int
    pictures: Pictures
    labels: torch.Tensor
    names: Sequence[str]
    train_idx: np.ndarray
    validation_idx: np.ndarray
    classes: int
    identity: str


def recogniser(  # type: ignore[no-untyped-def]
    config: RecognitionConfig, backbone: str, classes: int, pretrained: Pretrained
):
    """A network as a study's settings want it, and how its pictures are normalised.

    Raises:
        InputError: as of `backbones.create`.
    """
    model, norm = backbones.create(
        backbone,
        classes=classes,
        pretrained=pretrained,
        dropout=config.dropout,
        head=config.head,
        size_px=config.size_px,
    )
    return model, backbones.IMAGENET if PROTOCOLS[config.protocol].imagenet_norm else norm


def best_device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class LossError(StageError):
    """The loss is not finite."""


class FoldTraining:
    """A fold, from its first weights to the epoch that is kept.

    Raises:
        InputError: an unknown backbone, no weights, or too few pictures.
    """

    def __init__(self, config: RecognitionConfig, fold: Fold) -> None:
        if len(fold.train_idx) < 2:
            raise InputError(
                f"Fold {fold.number + 1} has {len(fold.train_idx)} image to learn from, and needs "
                "two; add photos or images."
            )
        self.config, self.fold = config, fold
        self.protocol = PROTOCOLS[config.protocol]
        self.device = best_device()
        self.half = _half(config, self.device)
        torch.manual_seed(derived_seed(fold.seed, "training", fold.backbone, fold.number))
        model, self.norm = recogniser(config, fold.backbone, fold.classes, config.pretrained)
        model.to(self.device, memory_format=torch.channels_last)
        # Batches of nearly equal size, of two at least: one picture breaks batch norm.
        shown = len(fold.train_idx)
        self.batches = max(1, min(-(-shown // config.batch_size), shown // 2))
        self.steps = config.epochs * self.batches
        rates = self.protocol.stem_rate if config.pretrained else 1.0
        groups = parameter_groups(model, config.weight_decay, rates)
        # Fused: one pass over each weight instead of a dozen.
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        averages = None
        if self.protocol.average_share:
            averages = Averages(model, self.protocol.average_share * self.steps)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)
        self.state = FoldState(model, optimiser, averages, scaler)

    def run(self, path: Path | None, progress: Progress) -> FoldState:
        """Train to the end, or until the validation loss has not fallen for long.

        Args:
            path: of a saved state, to go on from and to save to; none keeps none.
            progress: told after each epoch.

        Raises:
            LossError: the loss is not finite; raised before the weights move.
        """
        config, fold, state = self.config, self.fold, self.state
        if path:
            state.restore(path, fold.identity)
        pictures = fold.pictures.moved(self.device)
        wanted_N = fold.labels[fold.validation_idx]
        for epoch in range(len(state.history), config.epochs):
            if self._has_stopped():
                break
            train_loss = self._learn(pictures, epoch)
            with self._averaged():
                validation = pictures.take(fold.validation_idx)
                logits_NK = predict(
                    state.model, validation, self.norm, config.batch_size, self.half
                )
                top1 = float((logits_NK.argmax(1) == wanted_N).float().mean())
                loss = float(F.cross_entropy(logits_NK, wanted_N))
                state.history.append((epoch + 1, train_loss, loss, top1))
                if self._is_best():
                    state.keep()
            if path and epoch + 1 < config.epochs:
                state.save(path, fold.identity, config.checkpoint_s)
            progress(epoch + 1, config.epochs, f"validation {top1:.0%}")
        return state

    def _learn(self, pictures: Pictures, epoch: int) -> float:
        """One epoch; the mean training loss."""
        fold, state, config = self.fold, self.state, self.config
        # Dropout's, and whatever else a network draws by itself.
        torch.manual_seed(derived_seed(fold.seed, "dropout", fold.backbone, fold.number, epoch))
        state.model.train()
        losses = []
        order = self._order(epoch)
        seen = np.zeros(len(fold.labels), np.int64)
        for batch, chosen in enumerate(np.array_split(order, self.batches)):
            step = epoch * self.batches + batch
            for group in state.optimiser.param_groups:
                share = rate_of_step(self.protocol, step, self.steps)
                group["lr"] = config.learning_rate * group["lr_scale"] * share
            x = pictures.take(chosen).to(self.device)
            if self.protocol.augment:
                seeds = self._seeds(chosen, seen, epoch)
                drawn = augmentation.draws(seeds)
                x = augmentation.augmented(x.float().div_(255), drawn, config.flips)
            with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                logits_NK = state.model(to_input(x, self.norm))
            labels_N = fold.labels[chosen].to(self.device)
            loss = F.cross_entropy(
                logits_NK.float(), labels_N, label_smoothing=self.protocol.label_smoothing
            )
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise LossError(
                    f"{fold.backbone}, fold {fold.number + 1}: the loss of epoch {epoch + 1} is "
                    "not finite; lower recognition.learning_rate."
                )
            state.optimiser.zero_grad(set_to_none=True)
            state.scaler.scale(loss).backward()
            state.scaler.step(state.optimiser)
            state.scaler.update()
            if state.averages:
                state.averages.follow(step)
        return float(np.mean(losses))

    def _order(self, epoch: int) -> np.ndarray:
        """The pictures of an epoch, as many as there are; balanced, the same number of each class.

        A class of few pictures shows them again; one of many shows others in the next epoch.
        """
        fold = self.fold
        seed = derived_seed(fold.seed, "order", fold.backbone, fold.number, epoch)
        generator = torch.Generator().manual_seed(seed)
        shuffled = fold.train_idx[torch.randperm(len(fold.train_idx), generator=generator).numpy()]
        if not self.protocol.balanced:
            return shuffled
        labels_N = fold.labels.numpy()[shuffled]
        of_class = [shuffled[labels_N == label] for label in np.unique(labels_N)]
        each, more = divmod(len(shuffled), len(of_class))
        lucky = torch.randperm(len(of_class), generator=generator)[:more].tolist()
        found = np.concatenate(
            [np.resize(own, each + (n in lucky)) for n, own in enumerate(of_class)]
        )
        return found[torch.randperm(len(found), generator=generator).numpy()]

    def _seeds(self, chosen: np.ndarray, seen: np.ndarray, epoch: int) -> list[tuple[int, int]]:
        """What each picture's augmentation hangs on: also how often it came in this epoch."""
        found = []
        for place in chosen.tolist():
            name = self.fold.names[place]
            seed = derived_seed(self.fold.seed, "augmentation", name, self.fold.number, epoch)
            found.append((seed, int(seen[place])))
            seen[place] += 1
        return found

    def _is_best(self) -> bool:
        """Whether the last epoch is; of equal ones the earlier is better."""
        # Equal accuracies are common on few images: then the lower loss decides.
        ranked = [
            (-loss,) if self.protocol.by_loss else (top1, -loss)
            for _, _, loss, top1 in self.state.history
        ]
        return len(ranked) == 1 or ranked[-1] > max(ranked[:-1])

    def _has_stopped(self) -> bool:
        history, patience = self.state.history, self.protocol.patience
        if patience is None or not history:
            return False
        lowest = min(range(len(history)), key=lambda i: history[i][2])
        return len(history) - 1 - lowest >= max(2, round(patience * self.config.epochs))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averages in the network's place, where there are some."""
        averages = self.state.averages
        if averages:
            averages.swap()
        yield
        if averages:
            averages.swap()


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    pictures: torch.Tensor,
    norm: InputNorm,
    batch_size: int,
    half: torch.dtype | None = None,
) -> torch.Tensor:
    """Logits of a model in evaluation mode.

    Args:
        model: on its device.
        pictures: (N, 3, H, W) uint8.
        norm: of the backbone.
        batch_size: pictures at a time.
        half: what is computed with instead of float32.

    Returns:
        (N, K) float32 on the processor.
    """
    model.eval()
    device = next(model.parameters()).device
    found = []
    for start in range(0, len(pictures), batch_size):
        x = to_input(pictures[start : start + batch_size].to(device), norm)
        with torch.autocast(device.type, half, enabled=half is not None):
            found.append(model(x).float().cpu())
    return torch.cat(found)


def to_input(x: torch.Tensor, norm: InputNorm) -> torch.Tensor:
    """Normalise (N, 3, H, W), uint8 or float32 in 0..1, on its device; a new tensor."""
    mean = torch.tensor(norm.mean, device=x.device)[:, None, None]
    deviation = torch.tensor(norm.deviation, device=x.device)[:, None, None]
    # In place, and plane by plane until the last step: a third of the time on a processor.
    x = x.to(torch.float32).div_(255).sub_(mean) if x.dtype == torch.uint8 else x - mean
    return x.div_(deviation).contiguous(memory_format=torch.channels_last)


def _half(config: RecognitionConfig, device: torch.device) -> torch.dtype | None:
    """What the forward pass computes with instead of float32.

    Raises:
        InputError: fp16 without a GPU.
    """
    wanted = config.precision
    if wanted == "fp16" and device.type != "cuda":
        raise InputError(
            "recognition.precision: fp16 wants an NVIDIA GPU, and there is none; choose auto."
        )
    if wanted == "auto" and device.type == "cuda":
        wanted = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(wanted)
