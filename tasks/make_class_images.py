"""Draw the class images of prior preservation from the base model."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="class-images", task_run_name="class-images", **POLICY)
@untold
def make_class_images(root: str, name: str) -> State[Any]:
    """Draw the class images of prior preservation from the base model."""
    return make(root, name, lambda study: study.class_images())
