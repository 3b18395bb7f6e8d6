"""Rank the synthetic images by their class's prototype."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make


@task(name="ranking", task_run_name="ranking", **POLICY)
def rank(root: str, name: str, classes: list[str]) -> State[Any]:
    """Rank the synthetic images by their class's prototype."""
    return make(root, name, lambda study: study.ranking(classes))
