"""`synth-pipeline plan`: for every stage and class, cached or to run, and why."""

from pathlib import Path

from flows.root_folder import check_root
from flows.running import preflight, warn_of_cut_prompts
from synth_pipeline.config import load_config
from synth_pipeline.cost_model import device
from synth_pipeline.errors import InputError
from synth_pipeline.estimate import ON_GPU, estimate
from synth_pipeline.graph import PlanRow
from synth_pipeline.plan import plan
from synth_pipeline.study import Study


def show_plan(config_path: Path, overrides: list[str], root: Path, why: str | None) -> int:
    """Print the plan; writes nothing and needs no server.

    Raises:
        InputError: the input is wrong, or `why` names no class of the study.
    """
    config = load_config(config_path, overrides)
    check_root(root.absolute(), config.name, written=False)
    study = Study(config, root.absolute())
    preflight(study, "report")
    warn_of_cut_prompts(study, "report")
    rows = plan(study)
    if why is not None:
        if why not in study.expected_classes():
            known = ", ".join(study.expected_classes()[:8])
            raise InputError(f"--why {why}: no such class; the study has {known}, ...")
        rows = [row for row in rows if row.label.split(" ")[0] == why]
    for line in _lines(rows):
        print(line)
    for line in estimated(study, rows):
        print(line)
    return 0


def estimated(study: Study, rows: list[PlanRow]) -> list[str]:
    """What the rows that would run take, a line for each stage; nothing if none would."""
    costs = estimate(study, rows)
    if not costs:
        return []
    found = device()
    lines = [f"Estimate for {found.name}, one thing after another:"]
    wide = max(len(cost.stage) for cost in costs)
    for cost in costs:
        lines.append(
            f"  {cost.stage:<{wide}} {cost.count:5} × {_minutes(cost.seconds / cost.count):>10}"
            f" = {_minutes(cost.seconds):>10} {_bytes(cost.size_bytes):>9}  {cost.basis}"
        )
    seconds = sum(cost.seconds for cost in costs)
    on_gpu = sum(cost.seconds for cost in costs if cost.stage in ON_GPU) if found.gpu else 0
    whose = f", {_minutes(on_gpu)} of them on the GPU" if found.gpu else ""
    total = _bytes(sum(cost.size_bytes for cost in costs))
    lines.append(f"  in all {_minutes(seconds)}{whose}; {total} of disk")
    if any(cost.basis == "measured" for cost in costs):
        lines.append("  measured: what earlier artifacts here took, scaled by the work")
    if any(cost.basis == "modelled" for cost in costs):
        lines.append(
            f"  modelled: arithmetic at an assumed {found.flop_per_s / 1e9:,.0f} GFLOP/s; "
            "half or twice that would not surprise (docs/decisions/0014)"
        )
    return lines


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def _bytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"


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
