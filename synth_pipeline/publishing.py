"""The results of a study, laid out where people look for them: `studies/<name>/`.

The tables are copies of stored artifacts; the report is an artifact of its own, keyed by every
artifact that its numbers come from.
"""

import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from synth_pipeline import cases, history, places, scores, selection, synthetic_set
from synth_pipeline.disk_errors import explained
from synth_pipeline.errors import InputError
from synth_pipeline.graph import Input, Node
from synth_pipeline.json_files import parse_object
from synth_pipeline.progress import Progress
from synth_pipeline.stage_versions import STAGE_VERSIONS
from synth_pipeline.store import Output, write_in_one_step
from synth_pipeline.study import Study

#: How many synthetic images of a class the report shows.
_SHOWN = 4
_FAILED = "failed.json"


def report_node(study: Study, classes: Sequence[str], failed: Mapping[str, str]) -> Node:
    """The report as a node that hangs on everything that was made.

    Args:
        study: every node of `classes` must be there before this one is made.
        classes: the classes that were finished.
        failed: the others, each with one sentence.
    """
    sources = list(study.nodes(classes))
    since = history.since(study, classes, public_config(study))

    def body(inputs: Mapping[str, Path], out_dir: Path, progress: Progress) -> Output:
        from synth_pipeline import report

        artifacts = [study.graph.artifact(node) for node in sources]
        versions = {
            name: number
            for artifact in artifacts
            for name, number in artifact.manifest["libraries"].items()
        }
        case_set = cases.load(inputs["cases"])
        held_out = collections.Counter(case.class_id for case in case_set.test())
        report.render(
            report.ReportInputs(
                name=study.config.name,
                config_yaml=public_config(study),
                scores=inputs["scores"] / "scores.parquet",
                comparisons=inputs["scores"] / "comparisons.parquet",
                scale_changes=inputs["scores"] / "scale_changes.parquet",
                shifts=inputs["scores"] / "shifts.parquet",
                predictions=inputs["scores"] / "predictions.parquet",
                ranking=inputs["ranking"] / "ranking.parquet",
                copies=inputs["copies"] / "copies.parquet",
                memorisation=inputs["memorisation"] / "memorisation.parquet",
                selection=inputs["selection"] / "selection.parquet",
                case_counts=[
                    {
                        "class_id": name,
                        "name": case_set.class_name(name),
                        "train": len(case_set.train(name)),
                        "faces": study.faces_in_photos(name).with_face,
                        "test": held_out[name],
                    }
                    for name in classes
                ],
                failed={**case_set.lost, **failed},
                photo_sentences=study.photo_sentences(classes),
                since=since,
                provenance=[
                    {"stage": a.stage, "label": node.label, "key": a.key, "digest": a.digest}
                    for node, a in zip(sources, artifacts, strict=True)
                ],
                versions=versions,
                base_model=study.base.identity,
                shortage=shortage(study, classes),
                synthetic_images=_best_images(inputs, classes),
                phantoms=study.config.cases.format == "phantom",
            ),
            out_dir / "report.html",
        )
        return Output()

    return Node(
        "report",
        "",
        STAGE_VERSIONS["report"],
        {
            "failed": dict(failed),
            "config": public_config(study),
            **({"since": history.as_parameters(since)} if since else {}),
        },
        body,
        inputs=tuple(Input(node.name, node) for node in sources),
        libraries=("matplotlib",),
    )


def publish(study: Study, classes: Sequence[str], failed: Mapping[str, str]) -> None:
    """Copy the report and the tables into `studies/<name>/`, each in one step.

    Args:
        study: with its report made.
        classes: the classes that were finished.
        failed: the others, each with one sentence.

    Raises:
        DiskError: there is no room.
        InputError: the folder cannot be written.
    """
    folder_of = {
        "report.html": report_node(study, classes, failed),
        "scores.parquet": study.scores(classes),
        "comparisons.parquet": study.scores(classes),
        "scale_changes.parquet": study.scores(classes),
        "shifts.parquet": study.scores(classes),
        "predictions.parquet": study.scores(classes),
        "ranking.parquet": study.ranking(classes),
        "copies.parquet": study.copies(classes),
        "memorisation.parquet": study.memorisation(classes),
    }
    contents = {name: study.graph.artifact(node).path / name for name, node in folder_of.items()}
    with explained("The folder", study.folder):
        for name, path in contents.items():
            write_in_one_step(study.folder / name, path.read_bytes())
        write_in_one_step(study.folder / _FAILED, json.dumps(dict(failed), indent=1).encode())
        history.keep(study, classes, public_config(study))


def failed_classes(study: Study) -> dict[str, str]:
    """The classes that failed when the study was last finished, each with its sentence.

    Raises:
        InputError: the file that says so cannot be read, or was changed.
    """
    path = study.folder / _FAILED
    try:
        found = parse_object(path.read_bytes())
        if not all(isinstance(sentence, str) for sentence in found.values()):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise InputError(
            f"{path} is damaged; run the study again, which writes a new one."
        ) from None
    return found


def finished_classes(study: Study) -> tuple[dict[str, str], list[str]]:
    """The classes that failed when the study was last finished, and the others.

    Args:
        study: whose cases may not be imported yet; then there is no class.
    """
    if not study.is_made(study.cases()):
        return {}, []
    failed = failed_classes(study)
    return failed, [name for name in study.case_set.classes if name not in failed]


def shortage(study: Study, classes: Sequence[str]) -> str:
    """One sentence if the largest scale could not be filled, else nothing.

    Args:
        study: with its selection made.
        classes: the classes that were finished.
    """
    found = study.graph.measurements(study.selection(classes))
    if not found["missing"]:
        return ""
    drawn = found["drawn"]
    selected, alike = found["selected"], found["eligible"] - found["selected"]
    different = f" ({alike} more are near-duplicates)" if alike else ""
    return (
        f"Only {selected} of {drawn:.0f} synthetic images show a face and passed the copy audit"
        f"{different}, so a scale beyond {selected} trains on {selected}."
    )


def public_config(study: Study) -> str:
    """The resolved configuration as YAML, without any place on this machine."""
    values = places.without_places(study.config).model_dump(
        mode="json", exclude={"store": True, "cases": {"inbox"}}
    )
    return yaml.safe_dump(values, sort_keys=False)


def score_rows(table: Path) -> list[dict[str, Any]]:
    """Every accuracy of a study, as plain values."""
    return pq.read_table(table).to_pylist()


def headline(table: Path) -> str:
    """The best Top-1 of every regime in plain words, a line each."""
    rows = [row for row in pq.read_table(table).to_pylist() if row["metric"] == "top1"]
    lines = []
    for best in scores.best_by_regime(rows):
        of = f", best of {best['of']} runs" if best["of"] > 1 else ""
        lines.append(
            f"Top-1 {best['regime']:<9} {best['mean']:6.1%} "
            f"(95 % interval {best['low']:.1%} to {best['high']:.1%}), "
            f"{best['backbone']}, {best['images']} images{of}"
        )
    return "\n".join(lines)


def _best_images(inputs: Mapping[str, Path], classes: Sequence[str]) -> dict[str, list[Path]]:
    """The first selected images of each class: they have a face and passed the copy audit."""
    scales = selection.load(inputs["selection"])
    picks = scales[max(scales)]
    found = {}
    for name in classes:
        paths = {s.index: s.path for s in synthetic_set.load(inputs[f"sampling {name}"])}
        chosen = [pick for pick in picks if pick.class_id == name]
        chosen.sort(key=lambda pick: -pick.cosine)
        found[name] = [paths[pick.index] for pick in chosen[:_SHOWN]]
    return found
