"""What `--until` accepts, in the order in which it runs."""

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
