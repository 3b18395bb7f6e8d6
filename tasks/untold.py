"""What Prefect is told of an error: that there was one, never its text; that is kept privately.

Prefect logs whatever is raised, and keeps it in its database. A library's message may quote the
name of a patient's file, and so may a sentence of ours about the real photos. So the body of every
task and every flow is wrapped here: nothing is raised to Prefect, and what it is told is a type, a
line of our own code, and a file of mode 600 beside the study's results that holds the rest.
"""

import asyncio
import copy
import functools
import inspect
import os
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect.exceptions import ExternalSignal, PrefectSignal
from prefect.states import Failed, State

from synth_pipeline.errors import SynthPipelineError

LOG = "errors.log"
_HOME = Path(__file__).parent.parent
#: What reads files under the names that people gave them, and whatever is called from there.
_OF_PHOTOS = ("case_sources.py", "cases.py", "ingest.py", "quarantine.py", "registry_cases.py")
_PACKAGES = ("synth_pipeline", "tasks", "flows")
#: They end a run from outside, and carry no text of anybody's.
_SIGNALS = (
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    asyncio.CancelledError,
    ExternalSignal,
    PrefectSignal,
)

P = ParamSpec("P")
R = TypeVar("R")


class UntoldError(Exception):
    """An error of which only the kind is told."""


def untold(body: Callable[P, R]) -> Callable[P, R | State[Any]]:
    """Wrap the body of a task or a flow, so that whatever is raised in it stays here.

    Our own sentences are passed on, unless they come from reading the real photos.

    Args:
        body: its parameters `root` and `name` say where the study lies.
    """

    @functools.wraps(body)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R | State[Any]:
        try:
            return body(*args, **kwargs)
        except _SIGNALS:
            raise
        # Panics of libraries in Rust are no `Exception`s.
        except BaseException as error:
            asked = inspect.signature(body).bind_partial(*args, **kwargs).arguments
            where = asked.get("root", ""), asked.get("name", "")
            if not isinstance(error, SynthPipelineError):
                return _failed_without_a_word(error, *where)
            if is_about_photos(error):
                return kept(error, *where)
            return Failed(message=str(error), data=error)

    return wrapped


def is_about_photos(error: SynthPipelineError) -> bool:
    """Whether an error was raised while real photos were looked at: its sentence may name one."""
    return any(
        Path(frame.filename).parent == _HOME / "synth_pipeline"
        and Path(frame.filename).name in _OF_PHOTOS
        for frame in traceback.extract_tb(error.__traceback__)
    )


def kept(error: SynthPipelineError, root: str, name: str) -> State[Any]:
    """The failed state of what went wrong with the real photos; the sentence may name a file.

    The command line, which runs in this process, reads the whole sentence by `sentence_of`.
    """
    log = _keep(error, root, name)
    told = f"The real photos could not be taken in ({type(error).__name__}); {_where_it_is(log)}."
    return Failed(message=told, data=told_as(error, told))


def told_as(error: SynthPipelineError, sentence: str) -> SynthPipelineError:
    """The same error with another sentence, for Prefect logs what a state carries, too."""
    public = copy.copy(error)
    public.args = (sentence,)
    public.__dict__["whole"] = str(error)
    return public


def sentence_of(state: State[Any]) -> str | None:
    """What the terminal is told of a failed state: all of it, where it was made in this process."""
    error = state.result(raise_on_failure=False)
    return getattr(error, "whole", state.message)


def _failed_without_a_word(error: BaseException, root: str, name: str) -> State[Any]:
    log = _keep(error, root, name)
    told = f"{_kind(error)} {_line(error)}; {_where_it_is(log)}."
    return Failed(message=told, data=UntoldError(told))


def _kind(error: BaseException) -> str:
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        # The system's words for the number; the error's own name the file.
        kind += f" ({os.strerror(error.errno)})"
    return kind


def _line(error: BaseException) -> str:
    """The last line of this package that an error came through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        ours = any(path.is_relative_to(_HOME / package) for package in _PACKAGES)
        if ours and path != Path(__file__):
            return f"at {path.relative_to(_HOME)}:{frame.lineno}"
    return "outside of this package"


def _where_it_is(log: Path | None) -> str:
    if log is None:
        return f"no private {LOG} could be written, so the message is lost"
    # Under the root, which reports that are passed on need not name.
    return f"the whole message is in {log.relative_to(log.parents[2])} under the root"


def _keep(error: BaseException, root: str, name: str) -> Path | None:
    """Append an error with its traceback to the study's private file; none if that failed too."""
    # A worker may see the shared folder under another path than whoever started the study.
    for place in (os.environ.get("SYNTH_PIPELINE_ROOT"), root):
        folder = Path(place) / "studies" / name if place else None
        if folder is None or not folder.is_dir():
            continue
        log = folder / LOG
        try:
            text = "".join(traceback.format_exception(error))
            line = f"{datetime.now(UTC).isoformat(timespec='seconds')} process {os.getpid()}"
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "wb") as stream:
                os.fchmod(handle, 0o600)
                stream.write(f"{line}\n{text}\n".encode(errors="backslashreplace"))
        except (OSError, MemoryError):
            continue
        return log
    return None
