"""The images of a `sampling` artifact, for those who only read them: without torch."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq


@dataclass(frozen=True)
class Sample:
    """One synthetic image of a `sampling` artifact."""

    index: int
    seed: int
    path: Path
    sha256: str
    prompt: str


def load(folder: Path) -> list[Sample]:
    """The images of a `sampling` artifact, by index."""
    columns = ["index", "seed", "file", "sha256", "prompt"]
    table = pq.read_table(folder / "samples.parquet", columns=columns)
    return [
        Sample(row["index"], row["seed"], folder / row["file"], row["sha256"], row["prompt"])
        for row in table.to_pylist()
    ]
