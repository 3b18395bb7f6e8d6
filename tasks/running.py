"""What every task does: find the study, make one node, and say whether it was cached.

Prefect's own result cache is off. It does not look whether an output still exists, and a planted
pickle would run on a hit; here a hit is a verified manifest, and the state is named `Cached`.
Nothing is persisted by Prefect but names, states and log lines: no path, no photo, no pickle.
"""

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State
from prefect.tasks import exponential_backoff

from synth_pipeline.config import CasesConfig, load_config
from synth_pipeline.disk_errors import release
from synth_pipeline.errors import DiskError, PassingError, SynthPipelineError
from synth_pipeline.graph import Node
from synth_pipeline.private_root import PREFECT
from synth_pipeline.study import Study
from tasks.progress import shown
from tasks.untold import is_about_photos, kept, told_as

logger = logging.getLogger("synth_pipeline")


def _is_worth_retrying(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Retry what time may heal; wrong input and a diverged training stay as they are."""
    if isinstance(state.data, PassingError):
        return True
    return not isinstance(state.data, SynthPipelineError)


#: What a task opens; another kind of study may have other bodies under the same stages.
STUDY: type[Study] = Study

#: The options that all tasks share.
POLICY: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_condition_fn": _is_worth_retrying,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


def open_study(root: str, name: str) -> Study:
    """The study that the command line wrote to `<root>/studies/<name>/config.resolved.yaml`."""
    path = Path(root) / "studies" / name / "config.resolved.yaml"
    return _open(root, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _open(root: str, path: Path, changed_ns: int) -> Study:
    # One study in memory: its base model and its verified artifacts serve every task.
    return STUDY(load_config(path), Path(root))


def make(root: str, name: str, choose: Callable[[Study], Node]) -> State[Any]:
    """Make one node of a study and return the state that tells how it went.

    Returns:
        `Completed` with the artifact's reference, named `Cached` when nothing was run; `Failed`
        with one sentence when the input is wrong.
    """
    study = open_study(root, name)
    try:
        node = choose(study)
        if study.is_made(node):
            artifact, executed = study.make(node)
        else:
            with shown(node.name, logger.info) as progress:
                artifact, executed = study.make(node, progress)
    except SynthPipelineError as error:
        if isinstance(error, DiskError):
            # So that Prefect's database, on the same disk, can take how this ended.
            release(Path(root) / PREFECT)
        if is_about_photos(error):
            return kept(error, root, name)
        return failed(study.config.cases, error)
    if not executed:
        return Completed(name="Cached", message="verified", data=artifact.reference())
    return Completed(data=artifact.reference())


def failed(cases: CasesConfig, error: SynthPipelineError) -> State[Any]:
    """The state of what went wrong; Prefect keeps its sentence, so no patient's place is in it."""
    told = str(error)
    for place in (cases.inbox, cases.source):
        for written in {str(Path(place).absolute()), place} if place else ():
            told = re.sub(rf"(?<![\w/]){re.escape(written)}(?!\w)", "(not shown)", told)
    return Failed(message=told, data=told_as(error, told))
