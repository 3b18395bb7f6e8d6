"""Choose a recogniser's hyper-parameters by cross-validation."""

from typing import Any

from prefect import task
from prefect.states import State

from tasks.running import POLICY, make
from tasks.untold import untold


@task(name="tuning", task_run_name="tuning {backbone} {regime}", **POLICY)
@untold
def tune(root: str, name: str, classes: list[str], backbone: str, regime: str) -> State[Any]:
    """Choose a recogniser's hyper-parameters by cross-validation on its training images."""
    return make(root, name, lambda study: study.tuning(classes, backbone, regime))
