"""One backbone: every regime and scale, all folds, and their evaluation."""

from typing import Any

from prefect import flow
from prefect.states import State

from flows.at_work import at_work
from flows.states import failed_like
from tasks.evaluate import evaluate
from tasks.running import open_study
from tasks.train import train
from tasks.tune import tune
from tasks.untold import untold


@flow(
    name="recognize",
    flow_run_name="recognize {backbone}",
    persist_result=False,
    validate_parameters=False,
)
@untold
def recognize(
    root: str, name: str, classes: list[str], backbone: str
) -> dict[str, Any] | State[Any]:
    """Train and evaluate one backbone in every regime and at every scale."""
    with at_work(root, name) as here:
        return backbone_steps(here, name, classes, backbone)


def backbone_steps(
    root: str, name: str, classes: list[str], backbone: str
) -> dict[str, Any] | State[Any]:
    """The tasks of one backbone, in the flow that is running."""
    study = open_study(root, name)
    for run in study.runs(classes):
        if run[0] != backbone:
            continue
        if study.config.recognition.tunes:
            state = tune(root, name, classes, *run[:2], return_state=True)
            if not state.is_completed():
                return failed_like(state)
        for fold in range(study.config.recognition.folds):
            state = train(root, name, classes, *run, fold, return_state=True)
            if not state.is_completed():
                return failed_like(state)
        state = evaluate(root, name, classes, *run, return_state=True)
        if not state.is_completed():
            return failed_like(state)
    return {"backbone": backbone}
