"""Train one fold of one recogniser (RDFace's published settings, section "Recognition").

AdamW, cosine decay to a hundredth of the rate, no augmentation; of all epochs the one with the
best validation accuracy is kept. Validation images come from the training set: the held-out
photos are not known here.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from synth_pipeline import backbones
from synth_pipeline.backbones import InputNorm
from synth_pipeline.config import RecognitionConfig
from synth_pipeline.errors import StageError
from synth_pipeline.progress import Progress, silent
from synth_pipeline.recognition_data import Example, folds, read_pictures
from synth_pipeline.seeds import derived_seed

#: Where the cosine ends, as a share of the first learning rate (1e-4 to 1e-6).
_LAST_RATE = 0.01


def run(
    config: RecognitionConfig,
    *,
    backbone: str,
    classes: Sequence[str],
    examples: Sequence[Example],
    fold: int,
    seed: int,
    out_dir: Path,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train and write `model.safetensors`, `fold.json` and `history.parquet`.

    Args:
        config: epochs, batch size, rates, picture size, number of folds.
        backbone: timm name.
        classes: the order of the head's outputs.
        examples: all training images of the run.
        fold: which fold is validated on, from 0.
        seed: of the study.
        out_dir: an empty folder.
        progress: told after each epoch.

    Returns:
        Seconds, images per second, and the kept validation accuracy.

    Raises:
        InputError: too few images, an unknown backbone, no weights.
        StageError: the loss is not finite; raised before the weights move.
    """
    begun_s = time.monotonic()
    ordered = sorted(examples, key=lambda e: (e.class_id, e.group, e.path.name))
    train_idx, validation_idx = folds(ordered, config.folds, seed)[fold]
    torch.manual_seed(derived_seed(seed, "training", backbone, fold) % 2**63)
    model, norm = backbones.create(
        backbone, classes=len(classes), pretrained=config.pretrained, dropout=config.dropout
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device, memory_format=torch.channels_last)
    pictures = torch.from_numpy(read_pictures([e.path for e in ordered], config.size_px))
    number_of = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([number_of[e.class_id] for e in ordered])
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    batches = -(-len(train_idx) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, config.epochs * batches, eta_min=_LAST_RATE * config.learning_rate
    )
    best: tuple[float, float] | None = None
    kept: dict[str, torch.Tensor] = {}
    kept_epoch = 0
    history = []
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed(
            derived_seed(seed, "order", backbone, fold, epoch)
        )
        order = train_idx[torch.randperm(len(train_idx), generator=generator).numpy()]
        model.train()
        losses = []
        # Batches of nearly equal size: a last batch of one picture breaks batch norm.
        for chosen in np.array_split(order, batches):
            logits_NK = model(_to_input(pictures[chosen], norm, device))
            loss = F.cross_entropy(logits_NK, labels[chosen].to(device))
            if not torch.isfinite(loss):
                raise StageError(
                    f"{backbone}, fold {fold + 1}: the loss of epoch {epoch + 1} is not finite; "
                    "lower recognition.learning_rate."
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        logits_NK = predict(model, pictures[validation_idx], norm, config.batch_size)
        wanted_N = labels[validation_idx]
        top1 = float((logits_NK.argmax(1) == wanted_N).float().mean())
        validation_loss = float(F.cross_entropy(logits_NK, wanted_N))
        history.append((epoch + 1, float(np.mean(losses)), validation_loss, top1))
        # Equal accuracies are common on few images: the lower loss decides, then the earlier epoch.
        if best is None or (top1, -validation_loss) > best:
            best = (top1, -validation_loss)
            kept = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            kept_epoch = epoch + 1
        progress(epoch + 1, config.epochs, f"validation {top1:.0%}")
    save_file({k: v.contiguous() for k, v in kept.items()}, out_dir / "model.safetensors")
    fold_facts = {
        "backbone": backbone,
        "fold": fold,
        "classes": list(classes),
        "training_images": len(train_idx),
        "validation_images": len(validation_idx),
        "kept_epoch": kept_epoch,
    }
    (out_dir / "fold.json").write_text(json.dumps(fold_facts, indent=1) + "\n")
    names = ("epoch", "train_loss", "validation_loss", "validation_top1")
    columns = dict(zip(names, zip(*history, strict=True), strict=True))
    pq.write_table(pa.table(columns), out_dir / "history.parquet")
    seconds = time.monotonic() - begun_s
    return {
        "seconds": seconds,
        "images_per_s": config.epochs * len(train_idx) / seconds,
        "validation_top1": best[0] if best else 0.0,
    }


@torch.no_grad()
def predict(
    model: torch.nn.Module, pictures: torch.Tensor, norm: InputNorm, batch_size: int
) -> torch.Tensor:
    """Logits of a model in evaluation mode.

    Args:
        model: on its device.
        pictures: (N, 3, H, W) uint8.
        norm: of the backbone.
        batch_size: pictures at a time.

    Returns:
        (N, K) float32 on the processor.
    """
    model.eval()
    device = next(model.parameters()).device
    found = [
        model(_to_input(pictures[start : start + batch_size], norm, device)).float().cpu()
        for start in range(0, len(pictures), batch_size)
    ]
    return torch.cat(found)


def _to_input(pictures: torch.Tensor, norm: InputNorm, device: torch.device) -> torch.Tensor:
    """uint8 to normalised float32, on the device."""
    x = pictures.to(device).to(torch.float32).div_(255)
    mean = torch.tensor(norm.mean, device=device)[:, None, None]
    deviation = torch.tensor(norm.deviation, device=device)[:, None, None]
    return ((x - mean) / deviation).contiguous(memory_format=torch.channels_last)
