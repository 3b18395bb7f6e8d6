"""Train one fold of one recogniser and write it (RDFace's settings, section "Recognition").

AdamW with a cosine; of all epochs the best by validation images is kept. Those come from the
training set: the held-out photos are not known here. `protocols` has the rest.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from synth_pipeline import backbones
from synth_pipeline.config import RecognitionConfig
from synth_pipeline.fold_training import Fold, FoldTraining
from synth_pipeline.picture_store import PictureStore, decoded
from synth_pipeline.progress import Progress, silent
from synth_pipeline.recognition_data import Example, folds
from synth_pipeline.store import canonical_json


def run(
    config: RecognitionConfig,
    *,
    backbone: str,
    classes: Sequence[str],
    examples: Sequence[Example],
    fold: int,
    seed: int,
    out_dir: Path,
    pictures: PictureStore | None = None,
    work_dir: Path | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train and write `model.safetensors`, `fold.json` and `history.parquet`.

    Args:
        config: protocol, head, epochs, batch size, rates, picture size, number of folds.
        backbone: ours, or a timm name.
        classes: the order of the head's outputs.
        examples: all training images of the run.
        fold: which fold is validated on, from 0.
        seed: of the study.
        out_dir: an empty folder.
        pictures: where decoded pictures are kept; none decodes them into memory.
        work_dir: a folder for the state, saved every `checkpoint_s`; run again with the same one,
            a killed training goes on and ends with the same weights (on a processor, bit for bit).
        progress: told after each epoch.

    Returns:
        Seconds, images per second, and the kept validation accuracy.

    Raises:
        InputError: too few images, an unknown backbone, no weights.
        StageError: the loss is not finite; raised before the weights move.
    """
    begun_s = time.monotonic()
    training = prepared(
        config,
        backbone=backbone,
        classes=classes,
        examples=examples,
        fold=fold,
        seed=seed,
        pictures=pictures,
    )
    done = training.run(work_dir / "state.pt" if work_dir else None, progress)
    save_file({k: v.contiguous() for k, v in done.kept.items()}, out_dir / "model.safetensors")
    architecture, arguments = backbones.recipe(backbone, config.head)
    fold_facts = {
        "backbone": backbone,
        "fold": fold,
        "classes": list(classes),
        "training_images": len(training.fold.train_idx),
        "validation_images": len(training.fold.validation_idx),
        "kept_epoch": done.kept_epoch,
        "epochs": len(done.history),
        "protocol": config.protocol,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        # How `timm.create_model` builds it again, and what it is shown.
        "architecture": architecture,
        "arguments": arguments,
        "size_px": config.size_px,
        "mean": list(training.norm.mean),
        "deviation": list(training.norm.deviation),
    }
    (out_dir / "fold.json").write_text(json.dumps(fold_facts, indent=1) + "\n")
    names = ("epoch", "train_loss", "validation_loss", "validation_top1")
    columns = dict(zip(names, zip(*done.history, strict=True), strict=True))
    pq.write_table(pa.table(columns), out_dir / "history.parquet")
    seconds = time.monotonic() - begun_s
    return {
        "seconds": seconds,
        "images_per_s": len(done.history) * len(training.fold.train_idx) / seconds,
        "validation_top1": done.history[done.kept_epoch - 1][3],
    }


def prepared(
    config: RecognitionConfig,
    *,
    backbone: str,
    classes: Sequence[str],
    examples: Sequence[Example],
    fold: int,
    seed: int,
    pictures: PictureStore | None = None,
) -> FoldTraining:
    """A fold ready to be trained; arguments and errors as of `run`."""
    ordered = sorted(examples, key=lambda e: (e.class_id, e.group, e.path.name))
    train_idx, validation_idx = folds(ordered, config.folds, seed)[fold]
    files = [example.path for example in ordered]
    if pictures is None:
        pixels = decoded(files, config.size_px)
    else:
        known = [example.sha256 for example in ordered]
        pixels = pictures.pictures(files, config.size_px, known if all(known) else None)
    number_of = {name: number for number, name in enumerate(classes)}
    names = [f"{e.class_id}/{e.group}/{e.path.name}" for e in ordered]
    what = [config.key_slice(), backbone, list(classes), names, fold, seed]
    return FoldTraining(
        config,
        Fold(
            backbone=backbone,
            number=fold,
            seed=seed,
            pictures=pixels,
            labels=torch.tensor([number_of[e.class_id] for e in ordered]),
            names=names,
            train_idx=train_idx,
            validation_idx=validation_idx,
            classes=len(classes),
            identity=hashlib.sha256(canonical_json(what)).hexdigest(),
        ),
    )
