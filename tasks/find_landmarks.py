"""Find the landmarks of one class's real or synthetic images."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="landmarks", task_run_name="landmarks {class_id} {kind}", **POLICY)
@untold
def find_landmarks(root: str, name: str, class_id: str, kind: str) -> State[Any]:
    """Find the landmarks of one class's real or synthetic images."""
    return make(root, name, lambda study: getattr(study, f"landmarks_{kind}")(class_id))
