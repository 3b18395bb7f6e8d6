"""What leaves a study: synthetic images, adapters and classifiers, each with a card.

Real photos never do. The folder is written beside its place and moved there in one step, readable
by its owner only: who else may have it is a decision, not a default.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from synth_pipeline import export_adapters, export_classifiers, export_images
from synth_pipeline.atomic import new_folder, sweep_half_made
from synth_pipeline.disk_errors import explained
from synth_pipeline.errors import InputError
from synth_pipeline.folder_check import check_writable
from synth_pipeline.graph import Node
from synth_pipeline.progress import Progress, silent
from synth_pipeline.study import Study
from synth_pipeline.study_recognition import run_label

KINDS = ("images", "adapters", "classifiers")
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass
class Exported:
    """What was written.

    Attributes:
        counts: kind to how many images, adapters or folds.
        refused: class id to the sentence that says why its adapter was not exported.
    """

    counts: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def card_environment() -> jinja2.Environment:
    """Jinja for the cards, with a filter for names, which are what people call folders.

    `markdown` keeps bars and brackets as they are.
    """
    cards = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    cards.filters["percent"] = lambda share: f"{100 * share:.1f}"
    cards.filters["markdown"] = lambda text: re.sub(r"([\\|<>*`\[\]])", r"\\\1", text)
    return cards


def export(
    study: Study,
    folder: Path,
    *,
    kinds: Sequence[str],
    classes: Sequence[str],
    wanted_classes: Sequence[str] = (),
    wanted_runs: Sequence[str] = (),
    progress: Progress = silent,
) -> Exported:
    """Write `folder/<kind>/` for each kind; the folder is seen whole or not at all.

    Args:
        study: whose stages for these kinds are made.
        folder: must be empty or not there.
        kinds: of `KINDS`.
        classes: the classes that the study finished.
        wanted_classes: export the images and adapters of these only; none: of all.
        wanted_runs: export the classifiers of these only, such as "resnet18 synthetic 48".
        progress: told after each image, adapter and fold.

    Raises:
        DiskError: there is no room.
        InputError: the folder is not empty or cannot be written, a class or a run is not known, a
            stage is not made, or there is nothing that may be exported.
    """
    _check_folder(folder, study)
    if "adapters" in kinds:
        export_adapters.check(study.config.dreambooth)
    chosen = _chosen(classes, wanted_classes, "--class", "class") or list(classes)
    labels = [run_label(*run) for run in study.runs(classes)]
    runs = _chosen(labels, wanted_runs, "--run", "run") or labels
    for node in _needed(study, kinds, classes, runs):
        if study.graph.resolve(node).looked.status != "cached":
            raise InputError(
                f"The study {study.config.name} has not finished the stage {node.name} under "
                f"{study.root}; run it first, with the same configuration."
            )
    cards = card_environment()
    exported = Exported()
    with explained("The folder", folder), new_folder(folder) as beside:
        if "images" in kinds:
            exported.counts["images"] = export_images.write(
                study, beside / "images", classes, chosen, cards, progress
            )
        if "adapters" in kinds:
            made, exported.refused = export_adapters.write(
                study, beside / "adapters", classes, chosen, cards, progress
            )
            exported.counts["adapters"] = made
        if "classifiers" in kinds:
            exported.counts["classifiers"] = export_classifiers.write(
                study, beside / "classifiers", classes, runs, cards, progress
            )
        if not any(exported.counts.values()):
            raise InputError(" ".join(["Nothing may be exported.", *exported.refused.values()]))
        _make_private(beside)
    return exported


def _check_folder(folder: Path, study: Study) -> None:
    if folder.resolve().is_relative_to(study.store.root.resolve()):
        raise InputError(f"{folder} lies inside the store; name a folder outside of it.")
    check_writable(folder, "The folder of the export")
    sweep_half_made(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder} is not empty; name a new folder, or remove that one first: nothing in it is "
            "ever overwritten."
        )


def _chosen(known: Sequence[str], wanted: Sequence[str], option: str, what: str) -> list[str]:
    for name in wanted:
        if name not in known:
            some = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            raise InputError(f"{option} {name}: no such {what} was finished; there are {some}.")
    return [name for name in known if name in wanted]


def _needed(
    study: Study, kinds: Sequence[str], classes: Sequence[str], runs: Sequence[str]
) -> list[Node]:
    """What must be made for an export, in the order in which it runs."""
    found: list[Node] = []
    if "images" in kinds or "adapters" in kinds:
        found += [study.dreambooth(name) for name in classes] if "adapters" in kinds else []
        found += [*(study.sampling(name) for name in classes), study.ranking(classes)]
        found += [study.copies(classes), study.memorisation(classes)]
    if "classifiers" in kinds:
        for run in study.runs(classes):
            if run_label(*run) in runs:
                folds = range(study.config.recognition.folds)
                found += [study.training(classes, *run, fold) for fold in folds]
        found.append(study.scores(classes))
    return found


def _make_private(folder: Path) -> None:
    """Folders of mode 700 and files of mode 600, whatever the umask and the store had."""
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
