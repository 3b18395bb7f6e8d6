"""New cases: what lies in a study's inbox is registered, and an event tells of it.

The deployment `ingest-cases/nightly` runs this on a schedule; an automation on the event starts the
study, in which only the touched classes are made again.
"""

from typing import Any

from prefect import flow
from prefect.states import Failed, State

from flows.production import which_study
from tasks.announce_cases import announce_cases
from tasks.take_in_cases import take_in_cases
from tasks.untold import untold


@flow(
    name="ingest-cases",
    flow_run_name="ingest {name}",
    persist_result=False,
    validate_parameters=False,
)
@untold
def ingest_cases(
    root: str = "", name: str = "", settle_s: float = 10.0
) -> dict[str, Any] | State[Any]:
    """Take new photos in, and announce those that nobody was told of.

    Args:
        root: folder of the store and the studies; in a deployment, empty is what the machine says.
        name: of the study whose configuration names the inbox; empty is the only one.
        settle_s: a file is taken when it did not change for so long.

    Returns:
        How many photos of each class were accepted, set aside and announced.
    """
    root, name = which_study(root, name)
    taken = take_in_cases(root, name, settle_s, return_state=True)
    if not taken.is_completed():
        return Failed(message=taken.message, data=taken.data)
    told = announce_cases(root, name, return_state=True)
    if not told.is_completed():
        return Failed(message=told.message, data=told.data)
    counts: Any = taken.result()
    return {**counts, "announced": told.result()}
