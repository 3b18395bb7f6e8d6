"""Tell Prefect that cases have arrived: the event that starts a study."""

from collections import Counter
from pathlib import Path
from typing import Any

from prefect import task
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.states import Completed, State

from synth_pipeline.registry_cases import registry_of
from tasks.running import POLICY, open_study
from tasks.untold import untold

ARRIVED = "synth-pipeline.cases.arrived"


@task(name="announce", task_run_name="announce {name}", **POLICY)
@untold
def announce_cases(root: str, name: str) -> State[Any]:
    """Emit the event for the cases that nobody was told of, with class ids and counts alone.

    At least once: what was registered by a run that was killed before this is told by the next.
    """
    registry = registry_of(open_study(root, name).config.cases, Path(root))
    waiting = Counter(entry.class_id for entry in registry.unannounced())
    if waiting:
        event = Event(
            event=ARRIVED,
            resource={
                "prefect.resource.id": f"synth-pipeline.study.{name}",
                "prefect.resource.name": name,
            },
            payload={"classes": dict(sorted(waiting.items()))},
        )
        # Not `emit_event`, which puts it into a queue: the registry may forget it only when the
        # server has it.
        with get_client(sync_client=True) as client:
            body = [event.model_dump(mode="json")]
            client.request("POST", "/events", json=body).raise_for_status()
        registry.announced(len(registry.entries))
    return Completed(data=dict(waiting))
