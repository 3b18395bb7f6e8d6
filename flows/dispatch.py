"""Give a study's classes and backbones to the workers, and see them through.

Prefect gives a run to a worker and forgets about the worker: a run whose machine died stays
"Running" and keeps its slot. So the dispatcher looks at each run's lease, crashes a run that is
dead, and gives its work to another worker. It may be wrong: the store's locks and content keys see
to it that what two runs want to make is made once.
"""

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, WorkerFilter
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling, Crashed, State

from flows.at_work import in_a_deployment, lay_probe
from flows.lease import Watch, lease_path
from flows.server import GPU_POOL
from flows.states import UNUSABLE

logger = logging.getLogger("synth_pipeline")

POLL_S = 1.0
#: How often a class is tried that fails, and the wait before it is tried again; it doubles.
TRIES, BACK_OFF_S = 3, 10.0
#: How often a class may lose its worker. A class that kills its worker must come to an end, too.
LOSSES = 12
#: With no worker in the pool for so long, one is asked for.
LONELY_S = 60.0
#: From a worker's taking of a run to the run's lease: a process starts, a container is fetched.
START_S = {"process": 60.0}
_START_ELSEWHERE_S = 1800.0
#: From the end of a lease to the run's last state.
_END_S = 60.0
#: A worker's heart beats every 30 seconds.
_HEARD_S = 75.0


@dataclass
class Job:
    """One class or backbone on its way.

    Attributes:
        label: what people are shown, such as "noonan".
        parameters: of the flow: the root, the study's name, and opaque ids.
        due_s: not before this moment, by the dispatcher's own clock.
    """

    label: str
    parameters: Mapping[str, Any]
    due_s: float = 0.0
    tries: int = 0
    losses: int = 0
    run_id: UUID | None = None
    watch: Watch | None = None
    phase: str = ""
    since_s: float = 0.0


@dataclass
class Dispatcher:
    """Runs of one deployment, one for each job, until each has come to an end.

    Args:
        deployment: such as "synthesize-class/gpu".
        folder: of the study, which all machines share.
        verb: the first word of the runs' names.
    """

    deployment: str
    folder: Path
    verb: str
    _alone_since_s: float = field(default_factory=time.monotonic)
    _alone_told_s: float = -1e9
    _given_up: list[Watch] = field(default_factory=list)

    def run(self, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """See every job through; returns the failed ones with one sentence each."""
        todo = {label: Job(label, parameters) for label, parameters in jobs.items()}
        failed: dict[str, str] = {}
        total, silent = len(todo), False
        with get_client(sync_client=True) as client:
            start_s = self._start_s(client)
            tags = [f"study:{self.folder.name}", lay_probe(self.folder)]
            try:
                self._adopt(client, todo, tags[0])
                while todo:
                    try:
                        self._start_due(todo, tags)
                        runs = self._read(client, todo)
                        for job in list(todo.values()):
                            ended, sentence = self._look(client, job, runs, start_s)
                            if ended:
                                del todo[job.label]
                                if sentence:
                                    failed[job.label] = sentence
                                done = f"{total - len(todo)}/{total}"
                                outcome = f"failed: {sentence}" if sentence else "finished"
                                logger.info("%s %s: %s %s", self.verb, done, job.label, outcome)
                        self._ask_for_workers(client, runs)
                        silent = False
                    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
                        if _is_our_fault(error):
                            raise
                        # On the command line this is told sooner (flows/server_watch.py).
                        if not silent and in_a_deployment():
                            logger.warning("the Prefect server does not answer; waiting for it")
                        silent = True
                    if todo:
                        time.sleep(POLL_S)
            finally:
                self._call_off(client, todo)
                for watch in self._given_up:
                    watch.remove()
        return failed

    def _start_s(self, client: SyncPrefectClient) -> float:
        pool = client.read_work_pool(GPU_POOL)
        return START_S.get(pool.type, _START_ELSEWHERE_S)

    def _adopt(self, client: SyncPrefectClient, todo: dict[str, Job], tag: str) -> None:
        """Go on with what a study that was killed has begun; call off what it only planned."""
        deployment = client.read_deployment_by_name(self.deployment)
        filtered = FlowRunFilter.model_validate(
            {
                "deployment_id": {"any_": [deployment.id]},
                "tags": {"all_": [tag]},
                "state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}},
            }
        )
        for run in client.read_flow_runs(flow_run_filter=filtered):
            job = next((j for j in todo.values() if dict(j.parameters) == run.parameters), None)
            if job and job.run_id is None and run.state and run.state.is_running():
                self._follow(job, run.id)
            else:
                client.set_flow_run_state(run.id, Cancelled(), force=True)

    def _start_due(self, todo: dict[str, Job], tags: list[str]) -> None:
        context = FlowRunContext.get()
        ours = context.flow_run.id if context and context.flow_run else ""
        for job in todo.values():
            if job.run_id is None and time.monotonic() >= job.due_s:
                attempt = job.tries + job.losses
                run = run_deployment(
                    self.deployment,
                    parameters=dict(job.parameters),
                    timeout=0,
                    tags=tags,
                    flow_run_name=f"{self.verb} {job.label}",
                    # Asked twice for lack of an answer, the server still makes one run.
                    idempotency_key=f"{ours}-{job.label}-{attempt}",
                )
                assert isinstance(run, FlowRun)
                self._follow(job, run.id)

    def _follow(self, job: Job, run_id: UUID) -> None:
        job.run_id = run_id
        job.watch = Watch(lease_path(self.folder, str(run_id)))
        job.phase, job.since_s = "", time.monotonic()

    def _read(self, client: SyncPrefectClient, todo: dict[str, Job]) -> dict[UUID, FlowRun]:
        ids = [job.run_id for job in todo.values() if job.run_id]
        found: dict[UUID, FlowRun] = {}
        for begin in range(0, len(ids), 100):
            filtered = FlowRunFilter.model_validate({"id": {"any_": ids[begin : begin + 100]}})
            found |= {run.id: run for run in client.read_flow_runs(flow_run_filter=filtered)}
        return found

    def _look(
        self, client: SyncPrefectClient, job: Job, runs: Mapping[UUID, FlowRun], start_s: float
    ) -> tuple[bool, str]:
        """Whether a job has come to its end, and the sentence if that is a bad one."""
        if job.run_id is None or job.watch is None:
            return False, ""
        run = runs.get(job.run_id)
        if run is None or run.state is None:
            # Deleted by somebody, or the database is another one.
            return self._lost(job, "its run is gone from the server")
        if run.state.is_completed():
            self._leave(job)
            return True, ""
        if run.state.is_cancelled() and not run.state.is_crashed():
            self._leave(job)
            return True, "its run was cancelled by somebody"
        if run.state.is_crashed():
            # A living run may be taken for dead, by the automation for instance: it is waited for.
            taken = job.watch.taken() and not job.watch.ended()
            if taken and not job.watch.dead():
                return False, ""
            return self._lost(job, "its worker was lost")
        if run.state.is_failed():
            return self._failed(job, run)
        now_s = time.monotonic()
        phase = "ended" if job.watch.ended() else "held" if job.watch.taken() else run.state.type
        if phase != job.phase:
            job.phase, job.since_s = phase, now_s
        waited_s = now_s - job.since_s
        if (
            (phase == "held" and job.watch.dead())
            or (phase == "ended" and waited_s > _END_S)
            or (phase in ("PENDING", "RUNNING") and waited_s > start_s)
        ):
            client.set_flow_run_state(
                run.id, Crashed(message="Its worker gives no sign of life."), force=True
            )
            logger.warning("%s %s lost its worker", self.verb, job.label)
            return self._lost(job, "its worker was lost")
        return False, ""

    def _failed(self, job: Job, run: FlowRun) -> tuple[bool, str]:
        assert run.state is not None
        self._leave(job)
        job.tries += 1
        sentence = run.state.message or "failed; see the run's log"
        if run.state.name == UNUSABLE or job.tries >= TRIES:
            return True, sentence
        wait_s = BACK_OFF_S * 2 ** (job.tries - 1)
        job.due_s = time.monotonic() + wait_s
        logger.warning("%s %s failed (%s); again in %.0f s", self.verb, job.label, sentence, wait_s)
        return False, ""

    def _lost(self, job: Job, what: str) -> tuple[bool, str]:
        if job.watch and not job.watch.taken():
            # On a busy machine its process may still be starting.
            with contextlib.suppress(FileExistsError):  # it has begun just now
                job.watch.give_up()
                self._given_up.append(job.watch)
                job.watch = None
        self._leave(job)
        job.losses += 1
        return job.losses > LOSSES, f"{what} {job.losses} times"

    def _leave(self, job: Job) -> None:
        if job.watch:
            job.watch.remove()
        job.run_id, job.watch = None, None

    def _ask_for_workers(self, client: SyncPrefectClient, runs: Mapping[UUID, FlowRun]) -> None:
        """Say it when nobody takes anything."""
        now_s = time.monotonic()
        states = [run.state for run in runs.values() if run.state]
        if not states or any(not state.is_scheduled() for state in states):
            self._alone_since_s = now_s
            return
        if now_s - self._alone_since_s < LONELY_S or now_s - self._alone_told_s < 600:
            return
        heard = datetime.now(UTC) - timedelta(seconds=_HEARD_S)
        living = WorkerFilter.model_validate({"last_heartbeat_time": {"after_": heard}})
        if client.read_workers_for_work_pool(GPU_POOL, worker_filter=living):
            return
        self._alone_told_s = now_s
        logger.warning(
            "no worker takes work from the pool %s; start one on any machine that sees %s: "
            "prefect worker start --pool %s",
            GPU_POOL,
            self.folder.parent.parent,
            GPU_POOL,
        )

    def _call_off(self, client: SyncPrefectClient, todo: Mapping[str, Job]) -> None:
        """After a failure or Ctrl-C, leave nobody working for a study that is gone."""
        for job in todo.values():
            if job.run_id is None:
                continue
            try:
                run = client.read_flow_run(job.run_id)
                if run.state and not run.state.is_final():
                    begun = run.state.is_running() or run.state.is_pending()
                    wanted: State[Any] = Cancelling() if begun else Cancelled()
                    client.set_flow_run_state(run.id, wanted, force=not begun)
            except (httpx.HTTPError, PrefectHTTPStatusError):
                return
            finally:
                if job.watch and not job.watch.taken():
                    job.watch.remove()


def _is_our_fault(error: Exception) -> bool:
    """Whether asking again cannot help."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
