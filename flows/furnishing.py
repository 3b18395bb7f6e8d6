"""Work pools and automations of a server, made where they are missing."""

import contextlib

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows.server import CPU_POOL, GPU_POOL
from synth_pipeline.shipped import AUTOMATIONS


def furnish() -> None:
    """Create the pools and automations that are not there; those that are stay as they are."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        for name in (GPU_POOL, CPU_POOL):
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(
                    WorkPoolCreate(name=name, type="process", base_job_template=template)
                )
        for wanted in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
            if not client.read_automations_by_name(wanted["name"]):
                client.create_automation(AutomationCore.model_validate(wanted))
