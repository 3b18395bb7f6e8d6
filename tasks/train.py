"""Train one fold of one recogniser."""

from typing import Any

from prefect import task
from prefect.states import State

from synth_pipeline.config import Regime
from tasks.running import POLICY, make


@task(
    name="training",
    task_run_name="training {backbone} {regime} {scale} fold {fold}",
    tags=["gpu"],
    **POLICY,
)
def train(
    root: str,
    name: str,
    classes: list[str],
    backbone: str,
    regime: Regime,
    scale: int | None,
    fold: int,
) -> State[Any]:
    """Train one fold of one recogniser; `scale` is none for the regime `real`."""
    return make(root, name, lambda study: study.training(classes, backbone, regime, scale, fold))
