"""One class: its landmarks, its concept, its synthetic images, and their landmarks."""

from typing import Any

from prefect import flow
from prefect.states import Failed, State

from tasks.find_landmarks import find_landmarks
from tasks.fine_tune import fine_tune
from tasks.generate import generate


@flow(
    name="synthesize-class",
    flow_run_name="synthesize {class_id}",
    persist_result=False,
    validate_parameters=False,
)
def synthesize_class(
    root: str, name: str, class_id: str, until: str | None = None
) -> dict[str, Any] | State[Any]:
    """Make all of one class, or as far as the stage `until`; a failure is the class's own."""
    steps = {
        "landmarks": lambda: find_landmarks(root, name, class_id, "real", return_state=True),
        "dreambooth": lambda: fine_tune(root, name, class_id, return_state=True),
        "sampling": lambda: generate(root, name, class_id, return_state=True),
        "": lambda: find_landmarks(root, name, class_id, "synthetic", return_state=True),
    }
    for stage, step in steps.items():
        state = step()
        if not state.is_completed():
            return Failed(message=state.message, data=state.data)
        if stage == until:
            break
    return {"class_id": class_id}
