"""The parts of a study that workers make: which are missing, who gets them, and what came of it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from flows.dispatch import Dispatcher
from flows.server import RECOGNIZE, SYNTHESIZE
from flows.stages import class_nodes_until
from synth_pipeline.graph import Node
from synth_pipeline.study import Study

logger = logging.getLogger("synth_pipeline")


def synthesize_elsewhere(opened: Study, classes: Sequence[str], until: str) -> dict[str, str]:
    """Have every class made that is not there, by whoever is free; returns the failed ones."""
    return _made_elsewhere(
        opened,
        SYNTHESIZE,
        "synthesize",
        {class_id: class_nodes_until(opened, class_id, until) for class_id in classes},
        {class_id: {"class_id": class_id, "until": until} for class_id in classes},
    )


def recognize_elsewhere(opened: Study, classes: Sequence[str]) -> dict[str, str]:
    """Have every backbone trained and evaluated that is not; returns the failed ones."""
    nodes = {
        name: opened.backbone_nodes(classes, name) for name in opened.config.recognition.backbones
    }
    parameters = {name: {"classes": list(classes), "backbone": name} for name in nodes}
    return _made_elsewhere(opened, RECOGNIZE, "recognize", nodes, parameters)


def _made_elsewhere(
    opened: Study,
    deployment: str,
    verb: str,
    nodes: Mapping[str, Sequence[Node]],
    parameters: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    missing = {
        label: [node for node in wanted if not opened.is_made(node)]
        for label, wanted in nodes.items()
    }
    todo = [label for label, lacking in missing.items() if lacking]
    logger.info("%s: %d to do, %d cached", verb, len(todo), len(nodes) - len(todo))
    failed: dict[str, str] = {}
    if todo:
        where = {"root": str(opened.root), "name": opened.config.name}
        dispatcher = Dispatcher(deployment, opened.folder, verb)
        failed = dispatcher.run({label: {**where, **parameters[label]} for label in todo})
        # What workers left half-made that were killed; whoever makes something now holds its lock.
        opened.store.sweep()
    opened.graph.look_again()
    for label, wanted in nodes.items():
        lacking = opened.count_made_elsewhere(wanted, missing[label])
        if lacking and label not in failed:
            failed[label] = f"{lacking[0].name} was reported as made, but is not in the store."
    return failed
