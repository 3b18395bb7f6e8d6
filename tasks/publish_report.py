"""Write the report and the study's tables to where people look for them."""

from typing import Any

from prefect import task
from prefect.states import State

from synth_pipeline.publishing import publish, report_node
from tasks.running import POLICY, make, open_study
from tasks.show_results import show_results
from tasks.untold import untold


@task(name="report", task_run_name="report", **POLICY)
@untold
def publish_report(root: str, name: str, classes: list[str], failed: dict[str, str]) -> State[Any]:
    """Render the report, unless nothing in it changed, and lay out the results."""
    state = make(root, name, lambda study: report_node(study, classes, failed))
    if state.is_completed():
        study = open_study(root, name)
        publish(study, classes, failed)
        show_results(study, classes, failed)
    return state
