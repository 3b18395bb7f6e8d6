"""The version of each stage, part of its content key.

Raise a number in the commit that makes a stage give another output for the same input; then its
artifacts are made again everywhere, and nothing else is. They stand in one light module because
planning a study must not import torch.
"""

STAGE_VERSIONS = {
    "cases": 5,
    "landmarks": 4,
    "class-images": 2,
    "dreambooth": 5,
    "sampling": 3,
    "ranking": 2,
    "copies": 2,
    "selection": 3,
    "tuning": 1,
    "training": 2,
    "evaluation": 3,
    "scores": 4,
    "memorisation": 2,
    "report": 6,
}
