"""Train one fold of one recogniser."""

from typing import Any

from prefect import task
from prefect.states import State

from synth_pipeline.study_recognition import run_label
from tasks.running import POLICY, make
from tasks.untold import untold


def _name(parameters: dict[str, Any]) -> str:
    run = run_label(parameters["backbone"], parameters["regime"], parameters["scale"])
    return f"training {run} fold {parameters['fold'] + 1}"


# Prefect takes such a function, though its protocol also asks for a class method.
@task(name="training", task_run_name=_name, **POLICY)  # type: ignore[arg-type]
@untold
def train(
    root: str,
    name: str,
    classes: list[str],
    backbone: str,
    regime: str,
    scale: int | None,
    fold: int,
) -> State[Any]:
    """Train one fold of one recogniser; `scale` is none for the regime `real`."""
    return make(root, name, lambda study: study.training(classes, backbone, regime, scale, fold))
