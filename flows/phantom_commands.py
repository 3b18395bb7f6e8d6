"""`synth-pipeline phantom make`, `terms`, `train-base` and `train-backbone`."""

import argparse
import logging

from flows.running import show_progress
from synth_pipeline.errors import InputError
from synth_pipeline.folder_check import check_writable
from synth_pipeline.models import face_landmarker_path
from synth_pipeline.progress import Throttled

#: What `phantom make` draws unless it is told.
_DEFAULTS = {"classes": 20, "per_class": 8, "test_per_class": 20, "size_px": 256, "seed": 0}


def make(options: argparse.Namespace) -> int:
    """Render a folder of phantoms with its table of cases and its ground truth."""
    from synth_pipeline.phantom.condition_files import read_conditions
    from synth_pipeline.phantom.dataset import make_dataset
    from synth_pipeline.phantom.sets import BENCHMARKS

    given = {name: getattr(options, name) for name in _DEFAULTS}
    given = {name: value for name, value in given.items() if value is not None}
    show_progress()
    mesh_path = face_landmarker_path()
    progress = Throttled(logging.getLogger("synth_pipeline").info, "phantoms")
    if options.benchmark:
        if given or options.conditions:
            raise InputError(
                f"{options.benchmark} is made as it is: leave out every option but --benchmark."
            )
        if options.benchmark not in BENCHMARKS:
            raise InputError(
                f"There is no benchmark {options.benchmark!r}; choose {' or '.join(BENCHMARKS)}."
            )
        benchmark = BENCHMARKS[options.benchmark]
        benchmark.make(options.folder, mesh_path=mesh_path, progress=progress)
    else:
        if options.conditions:
            if "classes" in given:
                raise InputError("--conditions names the classes: leave out --classes.")
            given["classes"] = read_conditions(options.conditions)
        make_dataset(
            options.folder, **{**_DEFAULTS, **given}, mesh_path=mesh_path, progress=progress
        )
    print(f"Phantoms: {options.folder}")
    return 0


def terms(options: argparse.Namespace) -> int:
    """Print the Human Phenotype Ontology terms that phantoms can show."""
    from synth_pipeline.phantom.phenotypes import TERMS

    for known in TERMS:
        print(f"{known.hpo_id}  {known.name}")
    return 0


def train_base(options: argparse.Namespace) -> int:
    """Train the embedded base model from random weights, or go on where it stopped."""
    from synth_pipeline.phantom.train_base import train_base as train

    # Before hours are spent.
    for folder in (options.folder, options.work_dir):
        check_writable(folder.absolute(), "The folder")
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

    for folder in (options.file.parent, options.work_dir):
        check_writable(folder.absolute(), "The folder")
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
