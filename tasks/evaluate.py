"""Ask one recogniser's folds about the held-out real photos."""

from typing import Any

from prefect import task
from prefect.states import State

from synth_pipeline.study_recognition import run_label
from tasks.running import POLICY, make
from tasks.untold import untold


def _name(parameters: dict[str, Any]) -> str:
    run = run_label(parameters["backbone"], parameters["regime"], parameters["scale"])
    return f"evaluation {run}"


# Prefect takes such a function, though its protocol also asks for a class method.
@task(name="evaluation", task_run_name=_name, **POLICY)  # type: ignore[arg-type]
@untold
def evaluate(
    root: str, name: str, classes: list[str], backbone: str, regime: str, scale: int | None
) -> State[Any]:
    """Predict the held-out real photos; `scale` is none for the regime `real`."""
    return make(root, name, lambda study: study.evaluation(classes, backbone, regime, scale))
