"""`synth-pipeline run`: check everything first, lay the study down, run the flow, tell the end."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from synth_pipeline import disk_errors
from synth_pipeline.config import StudyConfig, dump_config, load_config
from synth_pipeline.errors import DiskError, InputError, SynthPipelineError
from synth_pipeline.held_out import none_held_out
from synth_pipeline.places import with_absolute_places
from synth_pipeline.private_root import PREFECT
from synth_pipeline.prompts import cut_prompts
from synth_pipeline.recognition_data import check_folds
from synth_pipeline.selection import check_scales
from synth_pipeline.store import write_in_one_step
from synth_pipeline.study import Study


def run_study(config_path: Path, overrides: list[str], root: Path, until: str) -> int:
    """Run a study to its report, or to the stage `until`; returns the exit code.

    Raises:
        InputError: something the user gave is wrong; found before anything is written.
    """
    from flows.environment import prepare
    from flows.locking import only_run
    from flows.orphans import ended_with_us
    from flows.own_server import OwnServer
    from flows.root_folder import check_root, open_root
    from flows.run_history import set_aside_if_unusable
    from flows.server import ready_server
    from flows.server_watch import watched
    from flows.surroundings import check_proxies, import_prefect

    check_proxies()
    config = load_config(config_path, overrides)
    root = root.absolute()
    check_root(root, config.name)
    study = Study(config, root)
    preflight(study, until)
    study.store.check()
    warn_of_cut_prompts(study, until)
    shared = ready_server(root) if config.engine == "workers" else None
    begun_s = time.monotonic()
    with only_run(study.folder), ended_with_us(), contextlib.ExitStack() as stack:
        swept = open_root(root) + study.store.sweep()
        if shared is None:
            set_aside_if_unusable(root / "prefect")
        else:
            whose = "PREFECT_API_URL" if shared.named else f"`synth-pipeline up --root {root}`"
            print(f"Prefect server: {shared.url} (of {whose})", flush=True)
        _lay_down(study, config)
        if shared:
            prepare(root, shared)
            stack.enter_context(watched(shared))
        else:
            own = stack.enter_context(OwnServer(root))
        show_progress()
        if swept:
            logging.getLogger("synth_pipeline").info(
                "removed %d half-made files and folders that killed commands left", swept
            )
        import_prefect(root / "prefect")
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows.study import study as study_flow
        from tasks.untold import sentence_of

        _tell_the_cost(root, config, until)
        if not shared:
            own.ready()
            stack.enter_context(watched(own.server, own.revive))
        # Nobody watches the heart of a flow on a server of its own, and to end its beating takes up
        # to a second a flow: a minute in a study of 103 classes.
        beat = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30 if shared else None}
        with temporary_settings(beat), _room_for_the_account(root / PREFECT):
            state = study_flow(str(root), config.name, until, return_state=True)
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        told = sentence_of(state) or "failed; see the run's log"
        print(f"synth-pipeline: {told}", file=sys.stderr)
        _tell_where(study, [told])
        return 2 if isinstance(error, InputError) else 1
    return _tell_the_end(study, state.result(), time.monotonic() - begun_s)


def preflight(study: Study, until: str) -> None:
    """Find what is wrong before anything is written.

    Raises:
        InputError: naming the first thing to mend.
    """
    from flows.stages import STAGES

    if until not in STAGES:
        raise InputError(f"--until {until}: no such stage; choose one of {', '.join(STAGES)}.")
    reach = STAGES.index(until)
    classes = study.expected_classes()
    if len(classes) < 2:
        raise InputError(
            f"Only one class was found in {study.config.cases.source}; a recogniser needs two."
        )
    if reach >= STAGES.index("training") and (why := none_held_out(study)):
        raise InputError(why)
    if reach >= STAGES.index("landmarks") or study.config.cases.format != "registry":
        _ = study.landmark_model
    if reach >= STAGES.index("dreambooth"):
        study.check_base()
        tuning = study.config.dreambooth
        if tuning.precision == "fp16" or tuning.optimiser == "adamw-8bit":
            # Asking torch takes seconds, so it is asked only what may be missing.
            from synth_pipeline.loaded_base import check_device

            check_device(tuning)
    if reach >= STAGES.index("sampling"):
        _ = study.signer
    if reach >= STAGES.index("selection"):
        check_scales(study.config.selection.scales, _images_to_generate(study, classes))
    for key in ("ranking", "copies"):
        backbone = getattr(study.config, key).backbone
        if backbone and reach >= STAGES.index(key):
            _check_backbones(study, key, [backbone], f"{key}.backbone")
    if reach >= STAGES.index("training"):
        if "synthetic" in study.config.recognition.regimes:
            check_folds(study.scales(classes)[0], study.config.recognition.folds)
        wanted = study.config.recognition.backbones
        _check_backbones(study, "training", wanted, "recognition.backbones")


def _check_backbones(study: Study, stage: str, names: Sequence[str], key: str) -> None:
    """Make sure that there are such networks and that their first weights can be loaded.

    Asking timm takes seconds, so one that the stage has used before is not asked about.
    """
    from synth_pipeline import backbones

    wanted = study.config.recognition
    made = [manifest["parameters"] for manifest in study.store.manifests(stage)]
    for backbone in names:
        used = [
            each
            for each in made
            if backbone in (each.get("backbone"), each.get(stage, {}).get("backbone"))
            and wanted.size_px in (each.get("size_px"), each.get("recognition", {}).get("size_px"))
        ]
        # Only of a network that exists does timm say where its weights come from.
        if used:
            weights = backbones.weights_identity(backbone, wanted.pretrained)
            if weights in {each.get("weights") for each in used}:
                continue
        backbones.check(backbone, wanted.pretrained, key)
        backbones.check_weights(backbone, wanted.pretrained, key, wanted.size_px)


def warn_of_cut_prompts(study: Study, until: str) -> None:
    """Say on the terminal which classes' prompts the base model does not read to their ends."""
    from flows.stages import STAGES

    if STAGES.index(until) < STAGES.index("dreambooth"):
        return
    for sentence in cut_prompts(study.config, study.base, study.expected_names()):
        print(f"synth-pipeline: {sentence}", file=sys.stderr)


def _images_to_generate(study: Study, classes: Sequence[str]) -> int:
    """Images of all classes that the source has, those included that failed in an earlier run."""
    made = study.graph.resolve(study.cases()).looked.status == "cached"
    failed = len(study.case_set.failed) if made else 0
    return (len(classes) + failed) * study.config.sampling.images_per_class


@contextlib.contextmanager
def _room_for_the_account(home: Path) -> Iterator[None]:
    """Keep some room for Prefect's database, which lies on the same disk; says so if it is full.

    Raises:
        DiskError: Prefect could not write, because the disk is full.
    """
    disk_errors.reserve(home)
    try:
        yield
    except SynthPipelineError:
        raise
    except Exception as error:
        disk_errors.release(home)
        if not disk_errors.is_full(home) and disk_errors.number_of(error) is None:
            raise
        raise DiskError(
            f"The disk of {home} is full; make room on it, then run the same command again: what "
            "was finished is kept."
        ) from None
    finally:
        disk_errors.release(home)


def _tell_the_cost(root: Path, config: StudyConfig, until: str) -> None:
    """Print what the run would take; nothing before the selection, whose scales it hangs on."""
    from flows.planning import estimated
    from flows.stages import STAGES
    from synth_pipeline.plan import plan
    from tasks.running import open_study

    reach = STAGES.index(until)
    if reach < STAGES.index("selection"):
        return
    # The tasks' own study, so that what is verified for this is not read again.
    study = open_study(str(root), config.name)
    later = set(STAGES[reach + 1 :])
    if "training" in later:
        later |= {"tuning", "evaluation"}
    for line in estimated(study, [row for row in plan(study) if row.stage not in later]):
        print(line)
    sys.stdout.flush()
    study.graph.look_again()


def _lay_down(study: Study, config: StudyConfig) -> None:
    """Write the resolved configuration, from which every task reads the study.

    A worker runs in another folder, so every place in it is absolute.
    """
    resolved = with_absolute_places(config)
    write_in_one_step(study.folder / "config.resolved.yaml", dump_config(resolved).encode())


def show_progress() -> None:
    """Print the library's log lines to the terminal, once, without Prefect's."""
    # What goes wrong while a line is logged is no line of its own.
    logging.raiseExceptions = False
    logger = logging.getLogger("synth_pipeline")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)


def _tell_of_the_photos(study: Study, classes: Sequence[str]) -> None:
    """Print which classes have photos without a face, or with several."""
    sentences = study.photo_sentences(classes)
    for class_id, sentence in sorted(sentences.items()):
        print(f"class {class_id}: {sentence}")
    if sentences and study.config.cases.format != "phantom":
        print("`synth-pipeline cases check` with the same configuration names these photos.")


def _tell_the_end(study: Study, result: Any, took_s: float) -> int:
    counts = f"{result['executed']} stages run, {result['cached']} cached"
    print(f"\n{study.config.name}: {counts}, {took_s:.0f} s")
    from tasks.running import open_study

    made = open_study(str(study.root), study.config.name)
    if result["until"] != "cases":
        _tell_of_the_photos(made, result["classes"])
    if result["until"] == "report":
        from synth_pipeline import history
        from synth_pipeline.publishing import headline, public_config, shortage

        print(headline(study.folder / "scores.parquet"))
        if told := shortage(made, result["classes"]):
            print(told)
        if since := history.since(made, result["classes"], public_config(made)):
            print(*history.in_words(since), sep="\n")
        print(f"Report: {study.folder / 'report.html'}")
    complaints = sorted({**result["lost"], **result["failed"]}.items())
    for class_id, sentence in complaints:
        print(f"synth-pipeline: class {class_id}: {sentence}", file=sys.stderr)
    _tell_where(study, [sentence for _, sentence in complaints])
    return 3 if complaints else 0


def _tell_where(study: Study, sentences: Sequence[str]) -> None:
    """Name the file that holds what sentences of errors leave out."""
    from tasks.untold import LOG

    if any(f"{LOG} under the root" in sentence for sentence in sentences):
        print(f"synth-pipeline: whole messages: {study.folder / LOG}", file=sys.stderr)
