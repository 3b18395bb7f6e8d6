"""What `--until` accepts, in the order in which it runs."""

from synth_pipeline.graph import Node
from synth_pipeline.study import Study

STAGES = (
    "cases",
    "landmarks",
    "dreambooth",
    "sampling",
    "ranking",
    "copies",
    "selection",
    "training",
    "scores",
    "memorisation",
    "report",
)


def class_nodes_until(opened: Study, class_id: str, until: str) -> list[Node]:
    """What is made for one class, as far as the stage `until`."""
    reach = {"landmarks": 1, "dreambooth": 2, "sampling": 3}.get(until)
    return opened.class_nodes(class_id)[:reach]
