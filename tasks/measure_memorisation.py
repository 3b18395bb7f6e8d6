"""Compare synthetic images with the photos they were learned from, and with held-out ones."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="memorisation", task_run_name="memorisation", **POLICY)
@untold
def measure_memorisation(root: str, name: str, classes: list[str]) -> State[Any]:
    """Compare synthetic images with the photos they were learned from, and with held-out ones."""
    return make(root, name, lambda study: study.memorisation(classes))
