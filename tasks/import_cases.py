"""Import, sanitise and split the real photos."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="cases", task_run_name="cases", **POLICY)
@untold
def import_cases(root: str, name: str) -> State[Any]:
    """Import, sanitise and split the real photos."""
    return make(root, name, lambda study: study.cases())
