"""An inbox of phantoms, and the folders that take them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from synth_pipeline import ingest
from synth_pipeline.inbox import Inbox
from synth_pipeline.ingest import Ingested
from synth_pipeline.quarantine import Quarantine
from synth_pipeline.registry import Registry


class Desk:
    """Inbox, registry and quarantine under one folder."""

    def __init__(self, folder: Path, photos: list[Path]) -> None:
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.photos = iter(photos)
        self.root = folder / "root"

    @property
    def registry(self) -> Registry:
        """As it lies on the disk now."""
        return Registry(self.root / "registry")

    @property
    def quarantine(self) -> Quarantine:
        return Quarantine(self.root / "quarantine")

    def drop(self, place: str, content: bytes | None = None) -> Path:
        """A file into the inbox; another photo each time by default."""
        path = self.inbox / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(next(self.photos).read_bytes() if content is None else content)
        return path

    def ingest(self, place: str | None = None, sleep: Callable[[float], None] | None = None):
        """Take what lies there; nobody writes meanwhile unless `sleep` does."""
        return self.ingest_with(place=place, sleep=sleep)

    def ingest_with(
        self,
        *,
        place: str | None = None,
        sleep: Callable[[float], None] | None = None,
        seed: int = 1,
        fraction: float = 0.25,
    ) -> Ingested:
        return ingest.run(
            Inbox(place or str(self.inbox)),
            self.registry,
            self.quarantine,
            seed=seed,
            fraction=fraction,
            settle_s=0,
            sleep=sleep or (lambda _: None),
        )

    def left(self) -> list[str]:
        """What lies in the inbox."""
        return sorted(
            path.relative_to(self.inbox).as_posix()
            for path in self.inbox.rglob("*")
            if not path.is_dir() or path.is_symlink()
        )


@pytest.fixture
def desk(tmp_path, phantom_files) -> Desk:
    # By turns from all classes, so that neighbours differ.
    return Desk(
        tmp_path, [path for six in zip(*phantom_files.values(), strict=True) for path in six]
    )
