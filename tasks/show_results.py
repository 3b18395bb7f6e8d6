"""What a finished study says on the dashboard: numbers, and where the report lies; no face."""

from collections.abc import Mapping, Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from synth_pipeline.publishing import headline, score_rows
from synth_pipeline.study import Study

_TIMED = ("dreambooth", "sampling", "training")


def show_results(study: Study, classes: Sequence[str], failed: Mapping[str, str]) -> None:
    """Leave a summary and a table of all scores as artifacts of the run."""
    key = f"study-{study.config.name}"
    rows = score_rows(study.folder / "scores.parquet")
    create_table_artifact(key=f"{key}-scores", table=rows, description="every accuracy")
    audit = study.graph.measurements(study.copies(classes))
    lines = [
        f"# {study.config.name}",
        "```",
        headline(study.folder / "scores.parquet"),
        "```",
        f"- Copy audit: {audit['copies']:.0f} of {audit['images']:.0f} synthetic images withheld",
        f"- Classes: {len(classes)} finished, {len(failed)} failed",
        *(f"  - {name}: {why}" for name, why in sorted(failed.items())),
        f"- Cost: {_cost(study, classes)}",
        f"- Report, on the machine that holds the study: `{study.folder / 'report.html'}`",
    ]
    create_markdown_artifact(key=key, markdown="\n".join(lines), description="the study's results")


def _cost(study: Study, classes: Sequence[str]) -> str:
    """Minutes of each long stage, whenever it was run, as its manifests say."""
    spent_s: dict[str, float] = dict.fromkeys(_TIMED, 0.0)
    for node in study.nodes(classes):
        if node.stage in spent_s:
            spent_s[node.stage] += study.graph.measurements(node).get("seconds", 0.0)
    return ", ".join(f"{stage} {s / 60:.1f} minutes" for stage, s in spent_s.items())
