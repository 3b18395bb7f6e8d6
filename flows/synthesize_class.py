"""One class: its landmarks, its concept, its synthetic images, and their landmarks."""

from typing import Any

from prefect import flow
from prefect.states import State

from flows.at_work import at_work
from flows.states import failed_like
from tasks.find_landmarks import find_landmarks
from tasks.fine_tune import fine_tune
from tasks.generate import generate
from tasks.make_class_images import make_class_images
from tasks.running import open_study
from tasks.untold import untold


@flow(
    name="synthesize-class",
    flow_run_name="synthesize {class_id}",
    persist_result=False,
    validate_parameters=False,
)
@untold
def synthesize_class(
    root: str, name: str, class_id: str, until: str | None = None
) -> dict[str, Any] | State[Any]:
    """Make all of one class, or as far as the stage `until`; a failure is the class's own."""
    with at_work(root, name) as here:
        return class_steps(here, name, class_id, until)


def class_steps(
    root: str, name: str, class_id: str, until: str | None
) -> dict[str, Any] | State[Any]:
    """The tasks of one class, in the flow that is running."""
    steps = {
        "landmarks": lambda: find_landmarks(root, name, class_id, "real", return_state=True),
        "class-images": lambda: make_class_images(root, name, return_state=True),
        "dreambooth": lambda: fine_tune(root, name, class_id, return_state=True),
        "sampling": lambda: generate(root, name, class_id, return_state=True),
        "": lambda: find_landmarks(root, name, class_id, "synthetic", return_state=True),
    }
    opened = open_study(root, name)
    # In one process the study has made them before; of many workers, the first one does.
    if not opened.config.dreambooth.prior_weight or opened.is_made(opened.class_images()):
        del steps["class-images"]
    for stage, step in steps.items():
        state = step()
        if not state.is_completed():
            return failed_like(state)
        if stage == until:
            break
    return {"class_id": class_id}
