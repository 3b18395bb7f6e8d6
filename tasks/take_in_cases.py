"""Take new photos out of the study's inbox into its registry."""

import logging
from pathlib import Path
from typing import Any

from prefect import task
from prefect.states import Completed, State

from synth_pipeline import ingest
from synth_pipeline.errors import StoreUnreachableError, SynthPipelineError
from synth_pipeline.progress import Throttled
from tasks.running import POLICY, failed, open_study
from tasks.untold import kept, untold

logger = logging.getLogger("synth_pipeline")


@task(name="ingest", task_run_name="ingest {name}", **POLICY)
@untold
def take_in_cases(root: str, name: str, settle_s: float) -> State[Any]:
    """Check, register or set aside what lies in the inbox; says how many of which class."""
    config = open_study(root, name).config
    try:
        done = ingest.of_study(
            config,
            Path(root),
            config.cases.inbox,
            settle_s=settle_s,
            progress=Throttled(logger.info, "ingest"),
        )
    except StoreUnreachableError as error:
        return failed(config.cases, error)
    except SynthPipelineError as error:
        return kept(error, root, name)
    for line in ingest.told(done):
        logger.info("ingest: %s", line)
    return Completed(data={"accepted": dict(done.accepted), "quarantined": dict(done.quarantined)})
