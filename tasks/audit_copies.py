"""Find synthetic images that lie too near a training photo."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="copies", task_run_name="copies", **POLICY)
@untold
def audit_copies(root: str, name: str, classes: list[str]) -> State[Any]:
    """Find synthetic images that lie too near a training photo."""
    return make(root, name, lambda study: study.copies(classes))
