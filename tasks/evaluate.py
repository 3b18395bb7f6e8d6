"""Ask one recogniser's folds about the held-out real photos."""

from typing import Any

from prefect import task
from prefect.states import State

from synth_pipeline.config import Regime
from tasks.running import POLICY, make


@task(
    name="evaluation",
    task_run_name="evaluation {backbone} {regime} {scale}",
    tags=["gpu"],
    **POLICY,
)
def evaluate(
    root: str, name: str, classes: list[str], backbone: str, regime: Regime, scale: int | None
) -> State[Any]:
    """Predict the held-out real photos; `scale` is none for the regime `real`."""
    return make(root, name, lambda study: study.evaluation(classes, backbone, regime, scale))
