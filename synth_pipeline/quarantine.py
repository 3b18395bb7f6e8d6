"""Files that could not become cases: kept, each with its reason, where only the owner can look.

`quarantine.parquet` tells of each the name it arrived under, for the person who has to correct it;
no other place does. The files lie in `files/`, named by a hash. While files are taken in,
`quarantine.jsonl` holds the new rows, so that each costs the same however many there are; at the
end, or when the next process begins, they go into the table.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from synth_pipeline.disk_errors import sentence_of
from synth_pipeline.errors import InputError
from synth_pipeline.json_files import parse_object
from synth_pipeline.store import canonical_json, fsync, write_in_one_step

_TABLE = "quarantine.parquet"
_JOURNAL = "quarantine.jsonl"


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
        self._known: set[str] = set()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the quarantine, and remove what a killed process left half-copied in it.

        Raises:
            DiskError: there is no room.
            InputError: another process holds it, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "files").mkdir(mode=0o700, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=0, mode=0o600):
                for path in [self.staging(), *self.folder.glob(f".{_TABLE}-*")]:
                    path.unlink(missing_ok=True)
                self._fold()
                self._known = {entry.arrival for entry in self.held()}
                try:
                    yield
                finally:
                    # The rows are safe in the journal, and the next process folds them.
                    with contextlib.suppress(OSError):
                        self._fold()
        except Timeout:
            raise InputError(
                f"Another process is writing to the quarantine {self.folder}; wait for it."
            ) from None
        except OSError as error:
            told = sentence_of(error, f"The quarantine {self.folder}")
            if told is None:
                raise
            raise told from None

    def held(self) -> list[Held]:
        """Everything that was set aside, the oldest first.

        Raises:
            InputError: the table cannot be read.
        """
        path = self.folder / _TABLE
        try:
            rows = pq.read_table(path).to_pylist() if path.exists() else []
            held = [Held(**row) for row in rows]
            known = {entry.arrival for entry in held}
            return held + [entry for entry in self._journal() if entry.arrival not in known]
        except (OSError, pa.ArrowException, TypeError, ValueError):
            raise InputError(
                f"The table {path} is damaged or cannot be read; bring it back from a backup, or "
                "move it away: the files beside it stay as they are."
            ) from None

    def staging(self) -> Path:
        """Where a file that arrives is copied to, until it is known what becomes of it."""
        return self.folder / ".arriving"

    def keep(self, entry: Held, staged: Path | None) -> None:
        """Put a staged file away and tell why; the same entry again changes nothing.

        The file goes first: what the table names is there. To be called while `locked`.
        """
        if staged is not None:
            staged.chmod(0o600)
            staged.replace(self.folder / entry.stored)
        if entry.arrival in self._known:
            return
        path = self.folder / _JOURNAL
        is_new = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "ab") as stream:
            stream.write(canonical_json(asdict(entry)) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        if is_new:
            fsync(self.folder)
        self._known.add(entry.arrival)

    def _journal(self) -> list[Held]:
        """The rows that are not in the table yet; a killed process may have cut the last one."""
        try:
            content = (self.folder / _JOURNAL).read_bytes()
        except FileNotFoundError:
            return []
        return [Held(**parse_object(line)) for line in content.split(b"\n")[:-1]]

    def _fold(self) -> None:
        """Move the journal's rows into the table."""
        path = self.folder / _JOURNAL
        if not path.exists():
            return
        table = pa.Table.from_pylist([asdict(entry) for entry in self.held()], _SCHEMA)
        stream = pa.BufferOutputStream()
        pq.write_table(table, stream)
        write_in_one_step(self.folder / _TABLE, stream.getvalue().to_pybytes())
        path.unlink()
