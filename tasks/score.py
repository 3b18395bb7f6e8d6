"""Compute every accuracy with its interval."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="scores", task_run_name="scores", **POLICY)
@untold
def score(root: str, name: str, classes: list[str]) -> State[Any]:
    """Compute every accuracy with its interval."""
    return make(root, name, lambda study: study.scores(classes))
