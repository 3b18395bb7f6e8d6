"""`synth-pipeline plan`: for every stage and class, cached or to run, and why."""

from pathlib import Path

from flows.running import preflight
from synth_pipeline.config import load_config
from synth_pipeline.errors import InputError
from synth_pipeline.graph import PlanRow
from synth_pipeline.plan import plan
from synth_pipeline.study import Study


def show_plan(config_path: Path, overrides: list[str], root: Path, why: str | None) -> int:
    """Print the plan; writes nothing and needs no server.

    Raises:
        InputError: the input is wrong, or `why` names no class of the study.
    """
    study = Study(load_config(config_path, overrides), root.absolute())
    preflight(study, "report")
    rows = plan(study)
    if why is not None:
        if why not in study.expected_classes():
            known = ", ".join(study.expected_classes()[:8])
            raise InputError(f"--why {why}: no such class; the study has {known}, ...")
        rows = [row for row in rows if row.label.split(" ")[0] == why]
    for line in _lines(rows):
        print(line)
    return 0


def _lines(rows: list[PlanRow]) -> list[str]:
    wide_stage = max(len(row.stage) for row in rows)
    wide_label = max(len(row.label) for row in rows)
    lines = []
    for row in rows:
        name = f"{row.stage:<{wide_stage}}  {row.label:<{wide_label}}"
        lines.append(f"{row.status:<7} {name}  {row.reason}".rstrip())
    cached = sum(row.status == "cached" for row in rows)
    lines.append(f"{len(rows)} in all: {cached} cached, {len(rows) - cached} to run")
    return lines
