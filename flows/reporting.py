"""`synth-pipeline report`: figures and HTML again, from what is stored."""

import shlex
from pathlib import Path

from flows.locking import only_run
from flows.root_folder import check_root, open_root
from synth_pipeline.config import load_config
from synth_pipeline.errors import InputError
from synth_pipeline.publishing import finished_classes, publish, report_node
from synth_pipeline.study import Study


def report_again(config_path: Path, overrides: list[str], root: Path) -> int:
    """Render the report of a finished study and lay out its results; runs no other stage.

    Raises:
        InputError: the study is not finished, or is being run.
    """
    config = load_config(config_path, overrides)
    shown = shlex.quote(str(config_path))
    check_root(root.absolute(), config.name)
    study = Study(config, root.absolute())
    if not study.folder.is_dir():
        raise InputError(
            f"The study {config.name} is not finished under {root}: it was never run. "
            f"Run `synth-pipeline run {shown}` first."
        )
    with only_run(study.folder):
        open_root(root.absolute())
        study.store.sweep()
        failed, classes = finished_classes(study)
        missing = next((node for node in study.nodes(classes) if not study.is_made(node)), None)
        if missing is not None:
            raise InputError(
                f"The study {config.name} is not finished under {root}: {missing.name} is missing. "
                f"Run `synth-pipeline run {shown}` first, with the same settings."
            )
        study.make(report_node(study, classes, failed))
        publish(study, classes, failed)
    print(f"Report: {study.folder / 'report.html'}")
    return 0
