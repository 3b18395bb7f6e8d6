"""Files that could not become cases: kept, each with its reason, where only the owner can look.

`quarantine.parquet` tells of each the name it arrived under, for the person who has to mend it; no
other place does. The files lie in `files/`, named by a hash.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from synth_pipeline.errors import InputError
from synth_pipeline.store import write_in_one_step

_TABLE = "quarantine.parquet"


@dataclass(frozen=True)
class Held:
    """A file that was set aside.

    Attributes:
        arrival: hash of its content and place, which also names it in `files/`.
        when: UTC, ISO 8601.
        class_id: whose folder it lay in; empty where it lay in none.
        file: where it lay in the inbox.
        outcome: `duplicate`, `clash` (the same as a case of another class) or `unusable`.
        case_id: the case that it shows again, if it does.
        stored: its file, below the quarantine's folder; empty where only its name could be kept.
    """

    arrival: str
    when: str
    class_id: str
    file: str
    outcome: str
    reason: str
    case_id: str
    stored: str


_SCHEMA = pa.schema([(name, pa.string()) for name in Held.__dataclass_fields__])


class Quarantine:
    """The quarantine's folder; made, with mode 700, by `locked`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the quarantine, and remove what a killed process left half-copied in it.

        Raises:
            InputError: another process holds it, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "files").mkdir(mode=0o700, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=0, mode=0o600):
                for path in [self.staging(), *self.folder.glob(f".{_TABLE}-*")]:
                    path.unlink(missing_ok=True)
                yield
        except Timeout:
            raise InputError(
                f"Another process is writing to the quarantine {self.folder}; wait for it."
            ) from None
        except PermissionError:
            raise InputError(f"The quarantine {self.folder} cannot be written.") from None

    def held(self) -> list[Held]:
        """Everything that was set aside, the oldest first.

        Raises:
            InputError: the table cannot be read.
        """
        path = self.folder / _TABLE
        if not path.exists():
            return []
        try:
            return [Held(**row) for row in pq.read_table(path).to_pylist()]
        except (OSError, pa.ArrowException, TypeError):
            raise InputError(
                f"The table {path} is damaged; bring it back from a backup, or move it away: "
                "the files beside it stay as they are."
            ) from None

    def staging(self) -> Path:
        """Where a file that arrives is copied to, until it is known what becomes of it."""
        return self.folder / ".arriving"

    def keep(self, entry: Held, staged: Path | None) -> None:
        """Put a staged file away and tell why; the same entry again changes nothing.

        The file goes first: what the table names is there.
        """
        if staged is not None:
            staged.chmod(0o600)
            staged.replace(self.folder / entry.stored)
        held = self.held()
        if all(known.arrival != entry.arrival for known in held):
            table = pa.Table.from_pylist([asdict(e) for e in (*held, entry)], _SCHEMA)
            stream = pa.BufferOutputStream()
            pq.write_table(table, stream)
            write_in_one_step(self.folder / _TABLE, stream.getvalue().to_pybytes())
