"""Every node of a study as it is declared: what its key is made of, without any content.

`python -m tests.pipeline.declared` writes the golden files anew. Their difference in git shows
which artifacts of every user would be made again.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from synth_pipeline.config import load_config
from synth_pipeline.graph import Node
from synth_pipeline.publishing import report_node
from synth_pipeline.study import Study
from tests.command_line import ROOT
from tests.rdface import plant_rdface

GOLDEN = Path(__file__).parent / "golden"
CONFIGS = ("quickstart", "phantom-20", "rdface", "rdface-published")


def declared(node: Node) -> dict[str, Any]:
    """What decides a node's key, and the places its inputs come from."""
    return {
        "stage": node.stage,
        "label": node.label,
        "version": node.version,
        "parameters": node.parameters,
        "inputs": [[each.name, each.node.name, each.part, each.keyed] for each in node.inputs],
        "libraries": list(node.libraries),
        "resumable": node.resumable,
    }


def lines_of(config: str, place: Path) -> list[str]:
    """One line of JSON for each node of a configuration, with two classes."""
    sets = []
    if config.startswith("rdface"):
        plant_rdface(place / "photos", (3, 3))
        # The hub's base is not here; what is known of it is its identity alone.
        sets = [
            f"cases.source={place / 'photos'}",
            "dreambooth.base_model=embedded",
            "dreambooth.base_vae=null",
        ]
    if config == "rdface-published":
        # VGG-Face is published nowhere that a program could name.
        sets.append("recognition.pretrained=false")
    study = Study(load_config(ROOT / "configs" / f"{config}.yaml", sets), place / "root")
    classes = study.expected_classes()[:2]
    nodes = [*study.nodes(classes), report_node(study, classes, {})]
    return [json.dumps(declared(node), sort_keys=True) for node in nodes]


if __name__ == "__main__":
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as scratch:
            lines = lines_of(name, Path(scratch))
        (GOLDEN / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
