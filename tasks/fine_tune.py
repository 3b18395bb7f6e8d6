"""Fine-tune the base model on one class."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="dreambooth", task_run_name="dreambooth {class_id}", **POLICY)
@untold
def fine_tune(root: str, name: str, class_id: str) -> State[Any]:
    """Fine-tune the base model on one class."""
    return make(root, name, lambda study: study.dreambooth(class_id))
