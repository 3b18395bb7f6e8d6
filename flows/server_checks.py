"""What `doctor` looks at on a Prefect server, and the commands that mend it."""

from collections.abc import Iterator
from pathlib import Path

import httpx

from flows.server import (
    CPU_POOL,
    GPU_POOL,
    STUDY,
    ZOMBIES,
    Server,
    check_version,
    find_server,
    ready_server,
)
from synth_pipeline.errors import InputError
from synth_pipeline.shipped import AUTOMATE, DEPLOY


def check_server(root: Path) -> Iterator[tuple[bool, str]]:
    """One line for each thing that `engine: workers` needs; nothing is wrong without a server."""
    try:
        server = find_server(root)
    except InputError as error:
        yield False, str(error)
        return
    if server is None:
        yield True, f"no Prefect server for {root}: fine for engine: inline"
        return
    try:
        ready_server(root)
        yield True, f"Prefect server {server.url}, its pool {GPU_POOL} and deployments"
        deployment = server.get(f"/deployments/name/{STUDY}")
        if deployment is None:
            yield False, f"deployment {STUDY} is missing: {DEPLOY}"
        else:
            check_version(STUDY, deployment["version"])
    except InputError as error:
        yield False, str(error)
        return
    yield _lets_nobody_in(server)
    yield from _workers(server)
    found = [one for one in server.find("automations") if one["name"] == ZOMBIES]
    if found and found[0]["enabled"]:
        yield True, f"automation {ZOMBIES}"
    else:
        state = "is switched off" if found else "is missing"
        yield (
            False,
            f"automation {ZOMBIES} {state}, so a run whose machine died stays Running for ever: "
            f"{AUTOMATE}",
        )


def _lets_nobody_in(server: Server) -> tuple[bool, str]:
    status = httpx.get(f"{server.url}/work_pools/{GPU_POOL}").status_code
    if status == 401:
        return True, "the server refuses who has no secret"
    return False, "the server lets anybody in: start it with PREFECT_SERVER_API_AUTH_STRING"


def _workers(server: Server) -> Iterator[tuple[bool, str]]:
    for pool in (GPU_POOL, CPU_POOL):
        online = [
            one for one in server.find(f"work_pools/{pool}/workers") if one["status"] == "ONLINE"
        ]
        if online:
            yield True, f"{len(online)} workers in the pool {pool}"
        else:
            yield False, f"no worker in the pool {pool}: prefect worker start --pool {pool}"
