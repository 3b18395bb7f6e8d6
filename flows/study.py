"""The whole study: cases, every class, ranking to selection, every backbone, the report.

With `engine: workers` the classes and the backbones are given to the workers of the pool gpu; what
needs all of them together is made here.
"""

import logging
from typing import Any

from prefect import flow
from prefect.states import Completed, Failed, State

from flows.elsewhere import recognize_elsewhere, synthesize_elsewhere
from flows.production import production
from flows.recognize import backbone_steps, recognize
from flows.stages import STAGES, class_nodes_until
from flows.synthesize_class import class_steps, synthesize_class
from synth_pipeline.errors import DiskError, InputError
from synth_pipeline.held_out import none_held_out
from synth_pipeline.study import Study
from tasks.audit_copies import audit_copies
from tasks.find_landmarks import find_landmarks
from tasks.fine_tune_together import fine_tune_together
from tasks.import_cases import import_cases
from tasks.make_class_images import make_class_images
from tasks.measure_memorisation import measure_memorisation
from tasks.publish_report import publish_report
from tasks.rank import rank
from tasks.running import open_study
from tasks.score import score
from tasks.select import select
from tasks.untold import untold

logger = logging.getLogger("synth_pipeline")


@flow(name="study", flow_run_name="study {name}", persist_result=False, validate_parameters=False)
@untold
def study(root: str = "", name: str = "", until: str = "report") -> dict[str, Any] | State[Any]:
    """Run a study that the command line has laid down under `root`.

    Args:
        root: folder of the store and the studies; in a deployment, empty is what the machine says.
        name: the study's name, from whose folder its configuration is read; empty is the only one.
        until: the last stage to run.

    Returns:
        The classes that were finished, those that failed and those that lost photos, with one
        sentence each; and how many stages were run or cached.
    """
    with production(root, name) as (here, known):
        return _study(here, known, until)


def _study(root: str, name: str, until: str) -> dict[str, Any] | State[Any]:
    opened = open_study(root, name)
    failed: dict[str, str] = {}
    try:
        for stage in STAGES[: STAGES.index(until) + 1]:
            failed |= _run_stage(stage, opened, root, name, until, failed)
    except _StoppedError as stopped:
        return Failed(message=stopped.state.message, data=stopped.state.data)
    finished = [class_id for class_id in opened.case_set.classes if class_id not in failed]
    return {
        "classes": finished,
        "failed": failed,
        "lost": opened.case_set.lost,
        "until": until,
        **opened.counts(),
    }


def _run_stage(
    stage: str, opened: Study, root: str, name: str, until: str, failed: dict[str, str]
) -> dict[str, str]:
    """Run one stage for everybody; returns the classes that failed in it."""
    if stage == "cases":
        _go_on(import_cases(root, name, return_state=True))
        if STAGES.index(until) >= STAGES.index("training") and (why := none_held_out(opened)):
            raise _StoppedError(Failed(message=why, data=InputError(why)))
        return dict(opened.case_set.failed)
    if stage == "landmarks":
        # The three stages of a class run together, class by class: `until` cuts them short.
        return _synthesize(opened, root, name, until, failed)
    classes = [class_id for class_id in opened.case_set.classes if class_id not in failed]
    if stage in ("ranking", "copies", "selection", "scores", "memorisation"):
        if len(classes) < 2:
            message = "Fewer than two classes are left. " + " ".join(failed.values())
            raise _StoppedError(Failed(message=message, data=InputError(message)))
        if stage == "selection":
            for strategy in opened.strategies():
                _go_on(select(root, name, classes, strategy, return_state=True))
            return {}
        task = {
            "ranking": rank,
            "copies": audit_copies,
            "scores": score,
            "memorisation": measure_memorisation,
        }
        _go_on(task[stage](root, name, classes, return_state=True))
    elif stage == "training" and opened.config.engine == "workers":
        lost = recognize_elsewhere(opened, classes)
        if lost:
            message = " ".join(f"{name}: {sentence}" for name, sentence in lost.items())
            raise _StoppedError(Failed(message=message))
    elif stage == "training":
        backbones = opened.config.recognition.backbones
        for done, backbone in enumerate(backbones, start=1):
            logger.info("backbone %d/%d: %s", done, len(backbones), backbone)
            nodes = opened.backbone_nodes(classes, backbone)
            if all(opened.is_made(node) for node in nodes):
                _go_on(_as_state(backbone_steps(root, name, classes, backbone)))
            else:
                _go_on(recognize(root, name, classes, backbone, return_state=True))
    elif stage == "report":
        _go_on(publish_report(root, name, classes, failed, return_state=True))
    return {}


class _StoppedError(Exception):
    """The study cannot go on; carries the state that says why."""

    def __init__(self, state: State[Any]) -> None:
        super().__init__(state.message)
        self.state = state


def _go_on(state: State[Any]) -> None:
    if not state.is_completed():
        raise _StoppedError(state)


def _synthesize(
    opened: Study, root: str, name: str, until: str, failed: dict[str, str]
) -> dict[str, str]:
    """Make every class in turn; a class that fails is listed while the others go on."""
    found: dict[str, str] = {}
    classes = [class_id for class_id in opened.case_set.classes if class_id not in failed]
    if opened.config.engine == "workers":
        return synthesize_elsewhere(opened, classes, until)
    settings = opened.config.dreambooth
    if settings.prior_weight and until != "landmarks":
        _go_on(make_class_images(root, name, return_state=True))
    at_once = settings.concepts_at_once if settings.method == "lora" else 1
    for done, class_id in enumerate(classes, start=1):
        if (done - 1) % at_once == 0 and until != "landmarks":
            _tune_together(opened, root, name, classes[done - 1 : done - 1 + at_once])
        logger.info("class %d/%d: %s", done, len(classes), class_id)
        # A flow takes longer to begin than tasks do that find everything cached.
        if all(opened.is_made(node) for node in class_nodes_until(opened, class_id, until)):
            state = _as_state(class_steps(root, name, class_id, until))
        else:
            state = synthesize_class(root, name, class_id, until, return_state=True)
        if not state.is_completed():
            if isinstance(state.result(raise_on_failure=False), DiskError):
                # No other class has more room.
                raise _StoppedError(state)
            found[class_id] = state.message or "failed; see the run's log"
            logger.error("class %s failed: %s", class_id, found[class_id])
    return found


def _as_state(done: dict[str, Any] | State[Any]) -> State[Any]:
    return done if isinstance(done, State) else Completed(data=done)


def _tune_together(opened: Study, root: str, name: str, classes: list[str]) -> None:
    """Make in one batch the concepts that are not there; what fails here fails again by itself."""
    waiting = [c for c in classes if not opened.is_made(opened.dreambooth(c))]
    if len(waiting) < 2:
        return
    # The cheap check comes first: a class without a face is not learned.
    faces = [
        class_id
        for class_id in waiting
        if find_landmarks(root, name, class_id, "real", return_state=True).is_completed()
    ]
    if len(faces) > 1:
        label = f"{faces[0]} and {len(faces) - 1} more"
        fine_tune_together(root, name, faces, label, return_state=True)
