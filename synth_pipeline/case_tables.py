"""Tables of cases, as spreadsheets write them: `cases.csv`, and RDFace's `disease_images.csv`.

All that is wrong with the rows is said at once. What `run` says names lines; the files' own names
are for the terminal of `cases check` (`TableError.details`).
"""

import difflib
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from synth_pipeline.class_names import normalised, printable, shown
from synth_pipeline.delimited import Row, Table, read_table
from synth_pipeline.errors import InputError
from synth_pipeline.source_photos import Source, SourcePhoto, side_of

#: What people call the columns that we know by another name.
_MEANT = {
    "file": {"filename", "file_name", "path", "image", "image_path", "photo", "files"},
    "class": {"label", "condition", "diagnosis", "disease", "syndrome", "class_name", "classes"},
    "subject": {"patient", "person", "patient_id", "subject_id", "person_id", "individual"},
    "split": {"set", "partition", "subset"},
}
#: So many lines or names are written out of one kind of fault.
_SHOWN = 8


class TableError(InputError):
    """Rows of a table that cannot be read.

    Attributes:
        details: a line for each fault, with the value that is wrong.
    """

    def __init__(self, message: str, details: list[str]) -> None:
        super().__init__(message)
        self.details = details

    def __reduce__(self) -> tuple[type, tuple[str, list[str]]]:
        return type(self), (str(self), self.details)


@dataclass
class _Faults:
    """What is wrong, by kind, and where."""

    table: Path
    lines: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    details: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, problem: str, value: str = "") -> None:
        self.lines[problem].append(line)
        told = f"{printable(value)}: {problem}" if value else problem
        self.details.append((line, f"{self.table.name}, line {line}: {told}"))

    def raise_if_any(self) -> None:
        if not self.lines:
            return
        told = "; ".join(f"{_lines(lines)}: {problem}" for problem, lines in self.lines.items())
        names = "; `synth-pipeline cases check CONFIG` shows the values" if self.details else ""
        raise TableError(
            f"{self.table}, {told}. Correct the table and run again{names}.",
            [text for _, text in sorted(self.details)],
        )


def read_cases(source: Path) -> Source:
    """Read `cases.csv`: file and class, and if the table has them subject and split.

    Args:
        source: the table, or the folder that holds it.

    Raises:
        TableError: rows cannot be read, or the columns are others.
        OSError: the table cannot be opened.
    """
    path = source / "cases.csv" if source.is_dir() else source
    table = _opened(path, ("file", "class"), ("subject", "split"))
    return _photos(table, lambda row: (path.parent, row.values["file"]), "class")


def read_rdface(source: Path) -> Source:
    """Read RDFace's `disease_images.csv` with `rd_images/<abbreviation>/`; see `read_cases`."""
    path = source / "disease_images.csv" if source.is_dir() else source
    table = _opened(path, ("image_name", "disease_name", "disease_abbr"), ())

    def place(row: Row) -> tuple[Path, str]:
        return path.parent / "rd_images" / row.values["disease_abbr"], row.values["image_name"]

    return _photos(table, place, "disease_abbr")


def _opened(path: Path, needed: tuple[str, ...], known: tuple[str, ...]) -> Table:
    try:
        table = read_table(path, needed)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; cases.format wants it there.") from None
    columns = [name for name in table.columns if name]
    allowed = (*needed, *known)
    others = [name for name in columns if name not in allowed]
    wrong = []
    if missing := [name for name in needed if name not in columns]:
        every = ", ".join(needed) + (f" (and may have {', '.join(known)})" if known else "")
        wrong.append(f"lacks the column {' and '.join(missing)}; it needs {every}")
    for name in allowed:
        if columns.count(name) > 1:
            wrong.append(f"has the column {name} twice; remove one")
        alike = [] if name in columns else _meant(name, others)
        if alike:
            wrong.append(f"has the column {alike[0]}; call it {name} or remove it")
            others.remove(alike[0])
    if wrong:
        raise TableError(f"{path} {'; it '.join(wrong)}.", [f"columns: {', '.join(columns)}"])
    if others:
        table.notes.append(f"{path.name}: not used: {_few([printable(name) for name in others])}.")
    return table


def _meant(name: str, others: list[str]) -> list[str]:
    words = [name, *_MEANT.get(name, ())]
    near = difflib.get_close_matches(name, others, 1, 0.8)
    return near or [other for other in others if other.replace(" ", "_") in words]


def _photos(table: Table, place: Callable[[Row], tuple[Path, str]], class_column: str) -> Source:
    faults, photos = _Faults(table.path), []
    seen: dict[str, tuple[int, SourcePhoto]] = {}
    repeated = 0
    classes: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in table.rows:
        if not _is_whole(row, table, faults):
            continue
        name = " ".join(normalised(row.values[class_column]).split())
        classes[_plain(name)][shown(name)].append(row.line)
        split = row.values.get("split", "")
        side = side_of(split)
        if split and side is None:
            faults.add(row.line, "the split is neither train nor test nor val", split)
        folder, written = place(row)
        path = _found(folder, written, row, table, faults)
        if path is None or (split and side is None):
            continue
        subject = " ".join(normalised(row.values.get("subject", "")).split()) or None
        photo = SourcePhoto(path, name, subject, side)
        first_line, first = seen.setdefault(os.path.realpath(path), (row.line, photo))
        if first is photo:
            photos.append(photo)
        elif (first.class_name, first.subject, first.split) == (name, subject, side):
            repeated += 1
        else:
            faults.add(row.line, f"line {first_line} says something else of the same file", written)
    for spellings in classes.values():
        if len(spellings) > 1:
            told = " and ".join(f"{n} ({_lines(lines)})" for n, lines in sorted(spellings.items()))
            first_of = min(line for lines in spellings.values() for line in lines)
            faults.add(
                first_of, f"one class is written in {len(spellings)} ways, write one: {told}"
            )
    faults.raise_if_any()
    if repeated:
        table.notes.append(f"{table.path.name}: {repeated} rows say again what others say.")
    return Source(photos, table.notes)


def _is_whole(row: Row, table: Table, faults: _Faults) -> bool:
    if any("\n" in value or "\r" in value for value in row.values.values()):
        faults.add(row.line, "a quotation mark opens here and is not closed in its line")
        return False
    if row.is_too_long:
        faults.add(
            row.line,
            f"there are more values than columns; quote a value that holds {table.separator}",
        )
        return False
    missing = [name for name in table.needed if not row.values.get(name)]
    if missing:
        faults.add(row.line, f"a value is missing ({', '.join(missing)})")
    return not missing


def _found(folder: Path, written: str, row: Row, table: Table, faults: _Faults) -> Path | None:
    """The file that a row names, if it may be read."""
    for name in _spellings(written):
        path = folder / name
        try:
            mode = path.stat().st_mode
            inside = path.resolve().is_relative_to(table.path.parent.resolve())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        except (OSError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or "it leads to itself"
            faults.add(row.line, f"the file it names cannot be reached ({why})", written)
            return None
        if not stat.S_ISREG(mode):
            faults.add(row.line, "what it names is no file", written)
        elif not inside:
            faults.add(row.line, "the file it names lies outside the folder of the table", written)
        else:
            return path
        return None
    faults.add(row.line, "the file it names does not exist below the folder of the table", written)
    return None


def _spellings(written: str) -> list[str]:
    """How the name may be spelt on the disk: with slashes, composed or not, in old bytes."""
    names = [written, written.replace("\\", "/")]
    names += [unicodedata.normalize(form, name) for form in ("NFC", "NFD") for name in names]
    for name in dict.fromkeys(names):
        try:
            # Out of an archive of an old system the name is no UTF-8.
            names.append(os.fsdecode(name.encode("cp1252")))
        except UnicodeEncodeError:
            continue
    return list(dict.fromkeys(names))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _lines(lines: list[int]) -> str:
    if len(lines) == 1:
        return f"line {lines[0]}"
    return f"lines {_few([str(line) for line in lines])}"


def _few(words: list[str]) -> str:
    rest = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
