"""Delimited text as spreadsheets save it: any encoding and separator; rows keep their lines."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from synth_pipeline.class_names import normalised
from synth_pipeline.errors import InputError

_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
#: What a file begins with, and how the rest is read.
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


@dataclass(frozen=True)
class Row:
    """A row that is not empty.

    Attributes:
        line: where it begins in the file, from 1.
        values: by column, without spaces around them.
        is_too_long: it has values beyond the last column.
    """

    line: int
    values: dict[str, str]
    is_too_long: bool


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: of the header, in lower case.
        encoding: `utf-8`, or what else the bytes are.
        separator: in words.
        notes: what was guessed, in sentences.
    """

    path: Path
    needed: tuple[str, ...]
    columns: list[str]
    rows: list[Row]
    encoding: str
    separator: str
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, needed: tuple[str, ...]) -> Table:
    """Read a table with a header.

    Args:
        path: of the file.
        needed: columns that it should have; the separator is the one with which it has most.

    Raises:
        InputError: it is no table of text.
        OSError: it cannot be opened.
    """
    if not path.is_file():
        if path.exists():
            raise InputError(f"{path} is no file; cases.format wants a table there.")
        raise FileNotFoundError(path)
    text, encoding = _decoded(path)
    notes = []
    if encoding == "cp1252":
        notes.append(f"{path.name} is not UTF-8; it was read as Windows-1252.")
    lines = text.splitlines()
    given = lines[0].strip().strip('"').casefold() if lines else ""
    separator = given[4:] if given.startswith("sep=") and given[4:] in _SEPARATORS else ""
    skipped = 1 if separator else 0
    if not separator:
        header = next((line for line in lines if line.strip()), "")
        separator = max(
            _SEPARATORS,
            key=lambda each: (
                len(set(_names(header, each)) & set(needed)),
                header.count(each),
            ),
        )
    try:
        columns, rows = _rows(text, separator, skipped)
    except csv.Error:
        raise InputError(f"{path} cannot be read as a table; save it as CSV in UTF-8.") from None
    return Table(path, needed, columns, rows, encoding, _SEPARATORS[separator], notes)


def _decoded(path: Path) -> tuple[str, str]:
    raw = path.read_bytes()
    if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InputError(f"{path} is a workbook, not a table of text; save it as CSV in UTF-8.")
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "")
    if not encoding and b"\0" in raw[:200]:
        # UTF-16 without a mark: Latin letters have a zero before or behind them.
        encoding = "utf-16-be" if raw[:1] == b"\0" else "utf-16-le"
    for name in (encoding,) if encoding else ("utf-8", "cp1252"):
        try:
            text = raw.decode(name)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text, "utf-8" if name == "utf-8-sig" else name
    raise InputError(f"{path} is no text in UTF-8; save it as CSV in UTF-8.")


def _rows(text: str, separator: str, skipped: int) -> tuple[list[str], list[Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    columns: list[str] | None = None
    rows = []
    begins = 1
    for values in reader:
        line, begins = begins, reader.line_num + 1
        cells = [value.strip().strip("\ufeff\u200b\xa0").strip() for value in values]
        if line <= skipped or not any(cells):
            continue
        if columns is None:
            columns = [normalised(cell).casefold() for cell in cells]
            continue
        named = {name: cell for name, cell in zip(columns, cells, strict=False) if name}
        rows.append(Row(line, named, any(cells[len(columns) :])))
    return columns or [], rows


def _names(header: str, separator: str) -> list[str]:
    found = next(csv.reader([header], delimiter=separator), [])
    return [normalised(cell).strip().strip("\ufeff").strip().casefold() for cell in found]
