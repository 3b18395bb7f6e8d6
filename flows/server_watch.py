"""Say it when the Prefect server of a run does not answer, and for how long it is waited for.

Prefect's client tries again in silence, and its threads' complaints are of no use to anybody. So a
thread of ours asks the server now and then, tells what it finds in one line, and ends the run when
waiting has become hopeless.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import httpx

from flows import interrupts
from flows.server import Server

logger = logging.getLogger("synth_pipeline")

POLL_S = 5.0
#: Silent for so long: it is said. A busy server is that slow now and then.
SAY_S = 15.0
#: Silent for so long: the run ends. Prefect's client gives up at about the same time, by itself.
GIVE_UP_S = 600.0


@contextlib.contextmanager
def watched(server: Server, look_after: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Watch a server while a run uses it.

    Args:
        server: its address is asked for its health.
        look_after: called before each time, to start it again where that is ours to do.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(server, look_after, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def _watch(server: Server, look_after: Callable[[], None], stop: threading.Event) -> None:
    heard_s = time.monotonic()
    said = False
    with httpx.Client(trust_env=False, timeout=POLL_S) as client:
        while not stop.wait(POLL_S):
            look_after()
            try:
                # Any answer will do: a server whose database is away has its own complaints.
                client.get(f"{server.url}/health")
            except httpx.HTTPError:
                silent_s = time.monotonic() - heard_s
                if silent_s > GIVE_UP_S:
                    interrupts.give_up(
                        f"the Prefect server at {server.url} has not answered for "
                        f"{GIVE_UP_S / 60:.0f} minutes; what is finished is kept, and once the "
                        "server is up the same command goes on from there."
                    )
                    return
                if silent_s > SAY_S and not said:
                    said = True
                    logger.warning(
                        "the Prefect server at %s does not answer; waiting for it, up to "
                        "%.0f minutes",
                        server.url,
                        GIVE_UP_S / 60,
                    )
                continue
            heard_s = time.monotonic()
            if said:
                said = False
                logger.info("the Prefect server answers again")
