"""Rank the synthetic images by their class's prototype."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="ranking", task_run_name="ranking", **POLICY)
@untold
def rank(root: str, name: str, classes: list[str]) -> State[Any]:
    """Rank the synthetic images by their class's prototype."""
    return make(root, name, lambda study: study.ranking(classes))
