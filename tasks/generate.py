"""Generate one class's synthetic images."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="sampling", task_run_name="sampling {class_id}", **POLICY)
@untold
def generate(root: str, name: str, class_id: str) -> State[Any]:
    """Generate one class's synthetic images."""
    return make(root, name, lambda study: study.sampling(class_id))
