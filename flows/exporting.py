"""`synth-pipeline export`: images, adapters and classifiers of a finished study, with cards."""

import argparse
import logging
import shlex
import sys

from flows.environment import prepare
from flows.root_folder import check_root, open_root
from flows.running import show_progress
from synth_pipeline.config import load_config
from synth_pipeline.errors import InputError
from synth_pipeline.progress import Throttled
from synth_pipeline.publishing import finished_classes
from synth_pipeline.study import Study

_UNITS = {"images": "synthetic images", "adapters": "adapters", "classifiers": "trained folds"}


def export(options: argparse.Namespace) -> int:
    """Write the folder; 3 if the adapter of a class was held back, which is then listed.

    Raises:
        InputError: nothing was asked for, or it cannot be written.
    """
    kinds = [kind for kind in _UNITS if getattr(options, kind)]
    if not kinds:
        raise InputError("Say what to export: --images, --adapters, --classifiers, or several.")
    config = load_config(options.config, options.overrides)
    root = options.root.absolute()
    check_root(root, config.name)
    study = Study(config, root)
    if study.graph.resolve(study.cases()).looked.status != "cached":
        raise InputError(
            f"The study {config.name} is not finished under {options.root}; "
            f"run `synth-pipeline run {shlex.quote(str(options.config))}` first."
        )
    open_root(root)
    prepare(root)
    from synth_pipeline.export import export as write

    show_progress()
    _, classes = finished_classes(study)
    exported = write(
        study,
        options.folder.absolute(),
        kinds=kinds,
        classes=classes,
        wanted_classes=options.classes,
        wanted_runs=options.runs,
        progress=Throttled(logging.getLogger("synth_pipeline").info, "export"),
    )
    counts = ", ".join(f"{exported.counts[kind]} {_UNITS[kind]}" for kind in kinds)
    print(f"Exported: {options.folder} ({counts})")
    for class_id, sentence in exported.refused.items():
        print(f"synth-pipeline: class {class_id}: {sentence}", file=sys.stderr)
    return 3 if exported.refused else 0
