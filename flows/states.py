"""Failures that a flow passes on from its tasks, named by whether another try may help."""

from typing import Any

from prefect.states import Failed, State

from synth_pipeline.errors import ClassFailedError

#: A class that cannot be made, however often it is tried: no usable photo, no face.
UNUSABLE = "Unusable"


def failed_like(state: State[Any]) -> State[Any]:
    """The failure of a task as the failure of its flow."""
    # Anything else may go well on another machine: a full disk, a memory that is too small.
    error = state.result(raise_on_failure=False)
    name = UNUSABLE if isinstance(error, ClassFailedError) else "Failed"
    return Failed(name=name, message=state.message, data=state.data)
