"""What a run that a worker took does before and while it works.

It looks whether it is of the deployment's version, finds the folder that all machines share, and
holds a lease there. In one process (`engine: inline`) there is nothing of this to do.
"""

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from flows.lease import held, lease_path
from flows.root_folder import only_for_us
from flows.server import check_version
from synth_pipeline.errors import InputError
from synth_pipeline.store import write_in_one_step

#: On a machine that sees the shared folder under another path than the one who started the study.
ROOT_VARIABLE = "SYNTH_PIPELINE_ROOT"
_PROBE, _PROBE_TAG = ".probe", "probe:"


def root_here(root: str) -> str:
    """The root folder as this machine sees it.

    Raises:
        InputError: neither the run nor the machine names one.
    """
    run = in_a_deployment()
    found = (run and os.environ.get(ROOT_VARIABLE)) or root
    if not found:
        raise InputError(
            f"No root folder is named: give the parameter root, or set {ROOT_VARIABLE} on the "
            "worker's machine."
        )
    # What runs here was started by a worker, whose umask is the machine's.
    only_for_us()
    return found


@contextlib.contextmanager
def at_work(root: str, name: str) -> Iterator[str]:
    """Hold a lease while a class or a backbone is made; gives the root as this machine sees it.

    Raises:
        InputError: this machine has another version, or does not see the study's folder.
    """
    run = in_a_deployment()
    if run is None:
        yield root
        return
    check_version("that started this run", run.deployment_version)
    root = root_here(root)
    folder = Path(root) / "studies" / name
    wanted = [tag.removeprefix(_PROBE_TAG) for tag in run.tags if tag.startswith(_PROBE_TAG)]
    if not (folder / "config.resolved.yaml").exists() or (
        wanted and _read(folder / _PROBE) != wanted[0]
    ):
        raise InputError(
            f"The machine {socket.gethostname()} does not see the study's folder under {root}; "
            f"mount the same folder there, or set {ROOT_VARIABLE} on it to where it is mounted."
        )
    with held(lease_path(folder, str(run.id))):
        yield root


def lay_probe(folder: Path) -> str:
    """Leave a mark in the study's folder; returns the tag by which a run knows what to look for."""
    token = uuid.uuid4().hex
    write_in_one_step(folder / _PROBE, token.encode())
    return f"{_PROBE_TAG}{token}"


def in_a_deployment() -> FlowRun | None:
    """The run that a worker took, if this code is in one."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run if run is not None and run.deployment_id is not None else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
