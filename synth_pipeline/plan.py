"""What a run would do, and why: every stage for every class, from the cases to the report."""

from synth_pipeline.graph import PlanRow
from synth_pipeline.publishing import failed_classes, report_node
from synth_pipeline.study import Study


def plan(study: Study) -> list[PlanRow]:
    """Say for every node whether it is cached or would run; runs and writes nothing.

    A class that failed in the last run is tried again, but nothing else waits for it: should it
    fail once more, the others go on as they are.

    Args:
        study: of which some or nothing may be made.

    Returns:
        Rows in the order in which the stages run.
    """
    expected = study.expected_classes()
    failed = {name: why for name, why in failed_classes(study).items() if name in expected}
    classes = [name for name in expected if name not in failed]
    rows = study.graph.plan([*study.nodes(classes), report_node(study, classes, failed)])
    again = []
    for name, why in failed.items():
        for row in study.graph.plan(study.class_nodes(name)):
            reason = row.reason if row.status == "cached" else f"failed last time: {why}"
            again.append(PlanRow(row.stage, row.label, row.status, reason, row.key))
    # After the cases, which come first.
    return [*rows[:1], *again, *rows[1:]]
