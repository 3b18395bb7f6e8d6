"""Run as a process: every task and every flow, in a Prefect of its own, where everything fails.

    python -m tests.security.planted ROOT NAME

Every exception carries NAME, as those of libraries carry the file's that they stumbled on.
"""

import itertools
import sys

import tasks.running

ROOT, NAME = sys.argv[1], sys.argv[2]
# Tries are counted, not waited for.
tasks.running.POLICY["retry_delay_seconds"] = 0

from prefect import flow  # noqa: E402

from flows.ingest_cases import ingest_cases  # noqa: E402
from flows.recognize import recognize  # noqa: E402
from flows.study import study  # noqa: E402
from flows.synthesize_class import synthesize_class  # noqa: E402
from synth_pipeline.study import Study  # noqa: E402
from tasks.untold import sentence_of  # noqa: E402
from tests.security.test_untold import every_task  # noqa: E402


class PanicException(BaseException):
    """What libraries written in Rust raise."""


def chained() -> Exception:
    try:
        try:
            raise OSError(5, "Input/output error", f"/ward/{NAME}.jpg")
        except OSError as error:
            raise ValueError(f"{NAME} again") from error
    except ValueError as error:
        return error


KINDS = (
    lambda: UnicodeEncodeError("utf-8", f"{NAME}\udcff.jpg", 13, 14, "surrogates not allowed"),
    lambda: MemoryError(NAME),
    lambda: PermissionError(13, "Permission denied", f"/ward/{NAME}.jpg"),
    lambda: KeyError(NAME),
    lambda: PanicException(NAME),
    lambda: ExceptionGroup(NAME, [ValueError(NAME)]),
    chained,
)
fresh = itertools.cycle(KINDS)


def _open(*_: object) -> Study:
    raise next(fresh)()


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")


@flow(name="everything")
def everything() -> None:
    for task in every_task():
        arguments = dict.fromkeys(task.fn.__wrapped__.__code__.co_varnames[2:], "x")
        wanted = task.fn.__wrapped__.__code__.co_argcount - 2
        state = task(ROOT, "small", *list(arguments)[:wanted], return_state=True)
        assert state.is_failed(), task.name


opened = tasks.running._open
tasks.running._open = _open
everything(return_state=True)
for _ in KINDS:
    state = study(ROOT, "small", "report", return_state=True)
    assert state.is_failed()
    tell(state.message)
for run in (
    lambda: synthesize_class(ROOT, "small", "noonan", return_state=True),
    lambda: recognize(ROOT, "small", ["noonan"], "resnet18", return_state=True),
    lambda: ingest_cases(ROOT, "small", 0.0, return_state=True),
):
    state = run()
    assert state.is_failed()
    tell(state.message)

# What is wrong with the photos, in a sentence of ours that names a file.
tasks.running._open = opened
state = study(ROOT, "small", "cases", return_state=True)
tell(state.message)
tell("TERMINAL", sentence_of(state))
