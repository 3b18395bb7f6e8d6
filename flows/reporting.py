"""`synth-pipeline report`: figures and HTML again, from what is stored."""

from pathlib import Path

from synth_pipeline.config import load_config
from synth_pipeline.errors import InputError
from synth_pipeline.publishing import failed_classes, publish, report_node
from synth_pipeline.study import Study


def report_again(config_path: Path, overrides: list[str], root: Path) -> int:
    """Render the report of a finished study and lay out its results; runs no other stage.

    Raises:
        InputError: the study is not finished.
    """
    study = Study(load_config(config_path, overrides), root.absolute())
    failed, classes = {}, []
    if study.graph.resolve(study.cases()).looked.status == "cached":
        failed = failed_classes(study)
        classes = [name for name in study.case_set.classes if name not in failed]
    if not classes or study.graph.resolve(study.scores(classes)).looked.status != "cached":
        raise InputError(
            f"The study {study.config.name} is not finished under {root}; "
            f"run `synth-pipeline run {config_path}` first."
        )
    study.make(report_node(study, classes, failed))
    publish(study, classes, failed)
    print(f"Report: {study.folder / 'report.html'}")
    return 0
