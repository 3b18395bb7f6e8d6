"""One HTML file that tells what a study found, and on what.

Self-contained: no script, no address, no real photo. The synthetic images in it were selected, so
they have a face and have passed the copy audit.
"""

import base64
import io
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

from synth_pipeline import class_scores, figures
from synth_pipeline.history import Since
from synth_pipeline.scores import best_by_regime
from synth_pipeline.shifts import SHIFTS
from synth_pipeline.stored_pictures import read_picture

_TEMPLATES = Path(__file__).parent / "templates"
_THUMBNAIL_PX = 112
_PULLED_SHOWN = 6
_METRICS = ("top1", "top5", "top10", "top30", "macro_f1")


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the report says comes from here.

    Attributes:
        config_yaml: the resolved configuration, fit to be shown.
        scores, comparisons, scale_changes, shifts, predictions: Parquet files of the study.
        ranking, copies, memorisation, selection: the same.
        case_counts: class_id, name, train, faces (training photos with a face) and test of each.
        failed: class id to the sentence that says why it, or a photo of it, is not in the results.
        photo_sentences: class id to one line of text about training photos without a face, with
            several, or with one that had to be searched for.
        since: how this compares with the study's last scores, where there are any.
        provenance: stage, label, key and digest of every artifact.
        versions: of the libraries.
        shortage: one sentence if a scale could not be filled, else nothing.
        synthetic_images: class id to images that passed the audit.
        phantoms: whether procedural faces stand in for the real photos.
    """

    name: str
    config_yaml: str
    scores: Path
    comparisons: Path
    scale_changes: Path
    shifts: Path
    predictions: Path
    ranking: Path
    copies: Path
    memorisation: Path
    selection: Path
    case_counts: Sequence[Mapping[str, Any]]
    failed: Mapping[str, str]
    photo_sentences: Mapping[str, str]
    since: Since | None
    provenance: Sequence[Mapping[str, str]]
    versions: Mapping[str, str]
    base_model: str
    shortage: str
    synthetic_images: Mapping[str, Sequence[Path]]
    phantoms: bool


def render(inputs: ReportInputs, out_file: Path) -> None:
    """Write the report; the same inputs give the same bytes.

    Args:
        inputs: what it is made of.
        out_file: the HTML file to write.
    """
    scores = pq.read_table(inputs.scores).to_pylist()
    ranking = pq.read_table(inputs.ranking).to_pylist()
    copies = pq.read_table(inputs.copies).to_pylist()
    memorised = {row["class_id"]: row for row in pq.read_table(inputs.memorisation).to_pylist()}
    selection = pq.read_table(inputs.selection).to_pylist()
    predictions = pq.read_table(inputs.predictions)
    top1 = [row for row in scores if row["metric"] == "top1"]
    ranks = [row["true_class_rank"] for row in ranking if row["found"]]
    largest = max(row["scale"] for row in selection)
    best = best_by_regime(top1)
    class_ids = [row["class_id"] for row in inputs.case_counts]
    recognised = _recognised(predictions, best, class_ids)
    best_of_all = max(best, key=lambda row: row["mean"])
    counts_KK = class_scores.confusion(
        class_scores.of_run(predictions, best_of_all), len(class_ids)
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}".replace("-", "−")
    page = environment.get_template("report.html.j2").render(
        name=inputs.name,
        test_images=len(set(predictions["case_id"].to_pylist())),
        classes=len(inputs.case_counts),
        best=best,
        folds=top1[0]["folds"],
        table=_table(scores, pq.read_table(inputs.comparisons).to_pylist()),
        metrics=_METRICS,
        shift_names=list(SHIFTS),
        shift_table=_shift_table(scores, pq.read_table(inputs.shifts).to_pylist()),
        recognised=recognised,
        confusion_of=best_of_all,
        confusion_figure=Markup(figures.confusions(counts_KK, class_ids)),
        depth={row["metric"]: row["k"] for row in scores},
        scale_changes=pq.read_table(inputs.scale_changes).to_pylist(),
        scale_figure=Markup(figures.accuracy_against_scale(top1)),
        rank_figure=Markup(figures.true_class_ranks(ranks, len(inputs.case_counts))),
        ranked_first=sum(rank == 1 for rank in ranks),
        ranked=len(ranks),
        median_rank=statistics.median(ranks) if ranks else None,
        generated=len(ranking),
        withheld=sum(bool(row["copy"]) for row in copies),
        class_rows=_class_rows(inputs.case_counts, ranking, copies, selection, largest),
        memorised=memorised,
        single=[row["class_id"] for row in inputs.case_counts if row["faces"] == 1],
        pulled=_pulled(ranking),
        largest=largest,
        failed=sorted(inputs.failed.items()),
        photo_sentences=sorted(inputs.photo_sentences.items()),
        since=inputs.since,
        pictures={
            name: [_thumbnail(path) for path in paths]
            for name, paths in sorted(inputs.synthetic_images.items())
        },
        base_model=inputs.base_model,
        versions=sorted(inputs.versions.items()),
        config_yaml=inputs.config_yaml,
        provenance=inputs.provenance,
        phantoms=inputs.phantoms,
        shortage=inputs.shortage,
    )
    out_file.write_text(page, encoding="utf-8")


def _table(
    scores: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One line for each run, with its metrics by name, and how it does against real photos only."""
    compared = {(row["backbone"], row["regime"], row["scale"]): row for row in comparisons}
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in scores:
        run = (row["backbone"], row["regime"], row["scale"])
        line = lines.setdefault(
            run,
            {
                "backbone": run[0],
                "regime": run[1],
                "images": row["images"],
                "metrics": {},
                "against_real": compared.get(run),
            },
        )
        line["metrics"][row["metric"]] = row
    return list(lines.values())


def _shift_table(
    scores: Sequence[Mapping[str, Any]], shifts: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One line for the best run of every regime: Top-1 as the photos are, and under each change."""
    lines = []
    for best in best_by_regime([row for row in scores if row["metric"] == "top1"]):
        right: dict[str, list[bool]] = {name: [] for name in SHIFTS}
        for row in shifts:
            if all(row[name] == best[name] for name in ("backbone", "regime", "scale")):
                right[row["shift"]].append(row["true_class_rank"] == 1)
        lines.append({**best, "under": {name: statistics.mean(r) for name, r in right.items()}})
    return lines


def _recognised(
    predictions: pa.Table, best: Sequence[Mapping[str, Any]], class_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """One line for each class with held-out photos: its recall by the best run of every regime."""
    by_regime = [
        class_scores.recalls(class_scores.of_run(predictions, run), class_ids) for run in best
    ]
    return [
        {"class_id": name, "recalls": [found[name] for found in by_regime]}
        for name in class_ids
        if name in by_regime[0]
    ]


def _class_rows(
    case_counts: Sequence[Mapping[str, Any]],
    ranking: Sequence[Mapping[str, Any]],
    copies: Sequence[Mapping[str, Any]],
    selection: Sequence[Mapping[str, Any]],
    largest: int,
) -> list[dict[str, Any]]:
    generated = Counter(row["class_id"] for row in ranking)
    found = Counter(row["class_id"] for row in ranking if row["found"])
    first = Counter(row["class_id"] for row in ranking if row["true_class_rank"] == 1)
    withheld = Counter(row["class_id"] for row in copies if row["copy"])
    selected = Counter(row["class_id"] for row in selection if row["scale"] == largest)
    return [
        {
            **counts,
            "generated": generated[counts["class_id"]],
            "found": found[counts["class_id"]],
            "first": first[counts["class_id"]],
            "withheld": withheld[counts["class_id"]],
            "selected": selected[counts["class_id"]],
        }
        for counts in case_counts
    ]


def _pulled(ranking: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """The measures most often off in images that are nearer to another class.

    Each with the number of images in which it is too large, and too small.
    """
    larger: Counter[str] = Counter()
    smaller: Counter[str] = Counter()
    for row in ranking:
        if row["true_class_rank"] != 1:
            for told in row["pulled_away_by"] or ():
                name, deviations = told.rsplit(" ", 1)
                (larger if float(deviations) > 0 else smaller)[name] += 1
    both = larger + smaller
    return [(name, larger[name], smaller[name]) for name, _ in both.most_common(_PULLED_SHOWN)]


def _thumbnail(path: Path) -> str:
    """A small picture as a data address."""
    picture = read_picture(path).resize((_THUMBNAIL_PX, _THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
