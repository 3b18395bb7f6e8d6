"""Prefect's database under a root: whether its server can open it, and what happens if not.

It holds the history of runs and nothing of a study, so one that cannot be used is moved aside and a
new one is begun. Without this look the server ends at once, or tries for minutes, and says nothing
of the file.
"""

import contextlib
import importlib.util
import os
import re
import sqlite3
import sys
from pathlib import Path
from urllib.parse import quote

from synth_pipeline.errors import InputError

NAME = "prefect.db"
#: Beside the database: what SQLite has not written into it yet.
_COMPANIONS = ("-wal", "-shm", "-journal")
_STATEMENT = re.compile(r'^(down_)?revision\b[^=]*=\s*["\'](\w+)["\']', re.MULTILINE)


def set_aside_if_unusable(home: Path) -> None:
    """Move the database of a Prefect home away if its server could not use it, and say so.

    Raises:
        InputError: it may not be read or moved.
    """
    database = home / NAME
    if not os.path.lexists(database):
        return
    try:
        fault = _fault(database)
        if fault is None or _is_open_somewhere(database):
            return
        new = _free_name(database)
        for ending in ("", *_COMPANIONS):
            beside = database.with_name(database.name + ending)
            if os.path.lexists(beside):
                beside.rename(new.with_name(new.name + ending))
    except OSError as error:
        raise InputError(
            f"Prefect's database {database} cannot be used ({error.strerror}); it holds only the "
            "history of runs: make it readable and writable, or move it away."
        ) from None
    print(
        f"synth-pipeline: Prefect's database {database} {fault}. It held only the history of runs; "
        f"it was moved to {new.name} there, and a new one is begun.",
        file=sys.stderr,
        flush=True,
    )


def _fault(database: Path) -> str | None:
    """What is wrong with it, in words that follow its name; none for nothing."""
    if not database.is_file():
        return "is no file"
    if database.stat().st_size == 0:
        return None
    with database.open("r+b"):
        pass  # SQLite does not say that a file may not be read or written.
    try:
        with _opened(database) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return "is damaged"
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            if not tables:
                return None
            made_by = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            begun = "flow_run" in tables and connection.execute("SELECT 1 FROM flow_run").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return "is none of Prefect's, or was left half-made"
        return None  # Locked: somebody uses it, so it is usable.
    except sqlite3.DatabaseError:
        return "is damaged"
    newest, known = _revisions()
    if made_by is None or (made_by[0] != newest and not begun):
        return "was left half-made"
    # What an older version has left, Prefect brings up to date by itself.
    return None if made_by[0] in known else "was written by another version of Prefect"


def _opened(database: Path) -> contextlib.closing[sqlite3.Connection]:
    address = f"file:{quote(str(database))}?mode=rw"
    return contextlib.closing(sqlite3.connect(address, uri=True, timeout=5))


def _revisions() -> tuple[str, set[str]]:
    """The newest schema of the installed Prefect, and all that it knows; it is not imported."""
    spec = importlib.util.find_spec("prefect")
    assert spec is not None and spec.submodule_search_locations
    place = Path(spec.submodule_search_locations[0]) / "server/database/_migrations/versions/sqlite"
    known: set[str] = set()
    older: set[str] = set()
    for path in place.glob("*.py"):
        for down, name in _STATEMENT.findall(path.read_text()):
            (older if down else known).add(name)
    (newest,) = known - older
    return newest, known


def _is_open_somewhere(database: Path) -> bool:
    """Whether a process that we may look at has it open: another server, which is making it."""
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if handle.readlink() == database:
                return True
        except OSError:
            continue  # It ended, or is somebody else's.
    return False


def _free_name(database: Path) -> Path:
    number = 1
    while os.path.lexists(new := database.with_name(f"{database.name}.set-aside-{number}")):
        number += 1
    return new
