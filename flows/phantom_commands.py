"""`synth-pipeline phantom make`, `phantom train-base` and `phantom train-backbone`."""

import argparse
import logging

from flows.running import show_progress
from synth_pipeline.models import face_landmarker_path
from synth_pipeline.progress import Throttled


def make(options: argparse.Namespace) -> int:
    """Render a folder of phantoms with its table of cases and its ground truth."""
    from synth_pipeline.phantom.dataset import make_dataset

    show_progress()
    make_dataset(
        options.folder,
        classes=options.classes,
        per_class=options.per_class,
        test_per_class=options.test_per_class,
        size_px=options.size_px,
        seed=options.seed,
        mesh_path=face_landmarker_path(),
        progress=Throttled(logging.getLogger("synth_pipeline").info, "phantoms"),
    )
    print(f"Phantoms: {options.folder}")
    return 0


def train_base(options: argparse.Namespace) -> int:
    """Train the embedded base model from random weights, or go on where it stopped."""
    from synth_pipeline.phantom.train_base import train_base as train

    show_progress()
    train(
        options.folder,
        work_dir=options.work_dir,
        mesh_path=face_landmarker_path(),
        progress=Throttled(logging.getLogger("synth_pipeline").info, "base model"),
    )
    print(f"Base model: {options.folder}")
    return 0


def train_backbone(options: argparse.Namespace) -> int:
    """Train a recogniser's embedded weights from random ones, or go on where it stopped."""
    from synth_pipeline import backbones
    from synth_pipeline.phantom.train_backbone import train_backbone as train

    backbones.check(options.file.stem, pretrained=False)
    show_progress()
    explained = train(
        options.file,
        name=options.file.stem,
        work_dir=options.work_dir,
        mesh_path=face_landmarker_path(),
        progress=Throttled(logging.getLogger("synth_pipeline").info, options.file.stem),
    )
    print(f"Weights: {options.file} ({explained:.0%} of the variance of shape explained)")
    return 0
