"""`synth-pipeline cases check`, `cases list` and `cases ingest`."""

import collections
import shlex
import sys
from pathlib import Path

from flows.root_folder import check_root, open_root
from synth_pipeline import case_check, ingest, models, registry_cases
from synth_pipeline.case_check import Checked
from synth_pipeline.case_tables import TableError
from synth_pipeline.config import StudyConfig, load_config
from synth_pipeline.errors import InputError
from synth_pipeline.places import from_home
from synth_pipeline.private_root import scratch
from synth_pipeline.study import Study


def check(config_path: Path, overrides: list[str], root: Path) -> int:
    """Import into a scratch folder, and say what would be set aside and what shows no face.

    Exit code 2 if there is anything to correct.
    """
    config = load_config(config_path, overrides)
    root = root.absolute()
    check_root(root)
    if config.cases.format == "phantom":
        raise InputError(f"{config_path} makes its cases (format phantom): nothing to check.")
    if config.cases.format == "registry":
        return _check_registry(config, root)
    if root.is_dir():
        open_root(root)
    try:
        # Patients' faces, though only for a while: in a folder that the next command sweeps.
        with scratch(root) as folder:
            out_dir = folder / "cases"
            out_dir.mkdir()
            checked = case_check.run(
                config.cases,
                seed=config.seed,
                out_dir=out_dir,
                landmark_model=_landmark_model(),
            )
    except TableError as error:
        print(*error.details, sep="\n")
        raise
    _list(checked)
    print(checked.in_words())
    if checked.refusal:
        print(f"synth-pipeline: {checked.refusal}", file=sys.stderr)
    return 0 if checked.is_good else 2


def _list(checked: Checked) -> None:
    for entry in (*checked.quarantined, *checked.faceless, *checked.crowded):
        print(f"{entry.class_id}/{entry.file}: {entry.reason}")
    for note in checked.notes:
        print(note)


def _landmark_model() -> Path | None:
    try:
        return models.face_landmarker_path()
    except InputError as error:
        print(f"synth-pipeline: faces are not looked for: {error}", file=sys.stderr)
        return None


def ingest_photos(
    config_path: Path, overrides: list[str], root: Path, inbox: str | None, settle_s: float
) -> int:
    """Take new photos out of the inbox; exit code 2 if any was set aside or left."""
    config = load_config(config_path, overrides)
    check_root(root.absolute())
    open_root(root.absolute())
    place = from_home(inbox) if inbox else config.cases.inbox
    done = ingest.of_study(config, root.absolute(), place, settle_s=settle_s)
    for line in ingest.told(done):
        print(line)
    if done.quarantined or done.left:
        shown = shlex.quote(str(config_path))
        print(f"`synth-pipeline cases check {shown}` names each with its reason")
    return 2 if done.quarantined or done.left else 0


def _check_registry(config: StudyConfig, root: Path) -> int:
    """Look at every byte of the registry, and name what was set aside."""
    registry = registry_cases.registry_of(config.cases, root)
    registry.verify()
    held = ingest.quarantine_of(root).held()
    for entry in held:
        print(f"{entry.file}: {entry.reason}")
    checked = Checked(len(registry.entries))
    model = _landmark_model()
    if model is not None and registry.entries:
        photos = [(e.case_id, registry.image(e), e.class_id, e.case_id) for e in registry.entries]
        with scratch(root) as folder:
            case_check.look_for_faces(checked, photos, landmark_model=model, out_dir=folder)
    _list(checked)
    print(f"{len(registry.entries)} cases, all as they were registered; {len(held)} set aside")
    unusable = any(entry.outcome != "duplicate" for entry in held)
    return 2 if unusable or not checked.is_good else 0


def list_cases(config_path: Path, overrides: list[str], root: Path) -> int:
    """Print the classes of the imported cases with their numbers of photos.

    Raises:
        InputError: the cases were not imported yet.
    """
    check_root(root.absolute(), written=False)
    study = Study(load_config(config_path, overrides), root.absolute())
    if study.graph.resolve(study.cases()).looked.status != "cached":
        raise InputError(
            f"No cases under {root} for this configuration; "
            f"run `synth-pipeline cases import {shlex.quote(str(config_path))}` first."
        )
    case_set = study.case_set
    held_out = collections.Counter(case.class_id for case in case_set.test())
    wide = max(len(class_id) for class_id in case_set.classes)
    print(f"{'class':<{wide}}  training  held-out  name")
    for class_id in case_set.classes:
        counts = f"{len(case_set.train(class_id)):8}  {held_out[class_id]:8}"
        print(f"{class_id:<{wide}}  {counts}  {case_set.class_name(class_id)}")
    total = sum(len(case_set.train(class_id)) for class_id in case_set.classes)
    print(f"{len(case_set.classes)} classes, {total} training, {held_out.total()} held-out")
    return 0
