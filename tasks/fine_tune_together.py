"""Fine-tune the base model on several classes in one batch."""

import logging
from typing import Any

from prefect import task
from prefect.states import Completed, State

from synth_pipeline.progress import Throttled
from tasks.running import POLICY, open_study
from tasks.untold import untold

logger = logging.getLogger("synth_pipeline")


@task(name="dreambooth-together", task_run_name="dreambooth {label}", **POLICY)
@untold
def fine_tune_together(root: str, name: str, class_ids: list[str], label: str) -> State[Any]:
    """Fine-tune the base model on several classes in one batch; a failure is the class's own."""
    failed = open_study(root, name).make_concepts(
        class_ids, Throttled(logger.info, f"dreambooth {label}")
    )
    return Completed(data={class_id: str(error) for class_id, error in failed.items()})
