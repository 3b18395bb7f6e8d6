"""Long work on the dashboard: how much is done, and how long the rest takes."""

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from synth_pipeline.progress import Progress, Throttled

#: Work that is done sooner has no bar of its own.
INTERVAL_S = 10.0


@contextlib.contextmanager
def shown(name: str, log: Callable[[str], None]) -> Iterator[Progress]:
    """Show the progress of a stage in the log, and as a progress artifact of its task run.

    The artifact is written by a thread: a server that is slow, or away, does not stop the stage.

    Args:
        name: of the node, such as "sampling noonan".
        log: gets the lines of text.
    """
    told = Throttled(log, name)
    begun_s = time.monotonic()
    latest: list[tuple[int, int]] = []
    stop = threading.Event()

    def progress(done: int, total: int, note: str = "") -> None:
        told(done, total, note)
        latest[:] = [(done, total)]

    def draw() -> None:
        artifact: UUID | None = None
        shown_last = (0, 0)
        stopped = False
        while not stopped:
            stopped = stop.wait(INTERVAL_S)
            if not latest or latest[0] == shown_last or (stopped and artifact is None):
                continue
            shown_last = done, total = latest[0]
            left_s = (time.monotonic() - begun_s) * (total - done) / max(done, 1)
            text = f"{name}: {done} of {total}" + (f", {left_s:.0f} s left" if done < total else "")
            with contextlib.suppress(httpx.HTTPError):
                if artifact is None:
                    made = create_progress_artifact(progress=100 * done / total, description=text)
                    artifact = made if isinstance(made, UUID) else None
                else:
                    update_progress_artifact(
                        artifact, progress=100 * done / total, description=text
                    )

    # The thread must know in which task it is.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(draw,), name="progress", daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        stop.set()
        thread.join(timeout=INTERVAL_S)
