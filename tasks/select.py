"""Choose the synthetic images to train on, for every scale."""

from typing import Any

from prefect import task
from prefect.states import State

from synth_pipeline.config import Strategy
from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="selection", task_run_name="selection {strategy}", **POLICY)
@untold
def select(root: str, name: str, classes: list[str], strategy: Strategy) -> State[Any]:
    """Choose the synthetic images to train on, for every scale."""
    return make(root, name, lambda study: study.selection(classes, strategy))
