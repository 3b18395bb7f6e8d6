"""Where real photos come from: folders of classes, a table, or RDFace's layout."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError
from synth_pipeline.store import canonical_json, file_sha256

_IGNORED = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class SourcePhoto:
    """A file in the source that claims to be a case.

    Attributes:
        subject: the person, where the source tells; none makes each photo a person of its own.
        split: `train` or `test` where the source decides it.
    """

    path: Path
    class_name: str
    subject: str | None = None
    split: str | None = None


def scan(config: CasesConfig) -> list[SourcePhoto]:
    """List the source without decoding anything.

    Raises:
        InputError: the folder or table is missing, empty, or not laid out as `cases.format` says.
    """
    source = Path(config.source)
    if not source.exists():
        raise InputError(f"cases.source {source} does not exist; name the folder of photos.")
    reader = {"imagefolder": _scan_folder, "csv": _scan_csv, "rdface": _scan_rdface}
    photos = reader[config.format](source)
    if not photos:
        raise InputError(f"cases.source {source} holds no photo; put one folder per class in it.")
    names = sorted({photo.class_name for photo in photos})
    if config.max_classes is not None:
        names = names[: config.max_classes]
    return sorted(
        (photo for photo in photos if photo.class_name in set(names)),
        key=lambda photo: (photo.class_name, str(photo.path)),
    )


def source_digest(photos: Sequence[SourcePhoto]) -> str:
    """A hash of what the photos are, not of where they lie or what their files are called."""
    rows = sorted(
        [photo.class_name, content(photo.path), photo.subject or "", photo.split or ""]
        for photo in photos
    )
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def content(path: Path) -> str:
    """The SHA-256 of a photo's file, or why it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _scan_folder(source: Path) -> list[SourcePhoto]:
    if not source.is_dir():
        raise InputError(f"cases.source {source} is a file; name the folder of class folders.")
    folders = [p for p in sorted(source.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    if not folders and any(source.iterdir()):
        raise InputError(
            f"cases.source {source} holds files but no class folders; "
            "put the photos of each class into a folder named after the class."
        )
    photos = []
    for folder in folders:
        found = [path for path in sorted(folder.rglob("*")) if _is_candidate(path, folder)]
        if not found:
            raise InputError(
                f"The class folder {folder.name} of cases.source is empty; add photos or remove it."
            )
        photos += [SourcePhoto(path, folder.name) for path in found]
    return photos


def _is_candidate(path: Path, folder: Path) -> bool:
    if path.name.startswith(".") or path.name.lower() in _IGNORED or path.is_dir():
        return False
    # A link that leaves the folder would bring in what nobody meant to give.
    return path.resolve().is_relative_to(folder.resolve())


def _scan_csv(source: Path) -> list[SourcePhoto]:
    table = source / "cases.csv" if source.is_dir() else source
    rows = _read_csv(table, ("file", "class"))
    splits = {(row.get("split") or "").strip() for row in rows}
    if not splits <= {"", "train", "test"}:
        wrong = sorted(splits - {"", "train", "test"})[0]
        raise InputError(f"{table}: the split {wrong!r} is neither train nor test.")
    return [
        SourcePhoto(
            _listed(table.parent, row["file"], table, number),
            row["class"].strip(),
            (row.get("subject") or "").strip() or None,
            (row.get("split") or "").strip() or None,
        )
        for number, row in enumerate(rows, start=2)
    ]


def _scan_rdface(source: Path) -> list[SourcePhoto]:
    table = source / "disease_images.csv" if source.is_dir() else source
    rows = _read_csv(table, ("image_name", "disease_name", "disease_abbr"))
    return [
        SourcePhoto(
            _listed(
                table.parent / "rd_images" / row["disease_abbr"], row["image_name"], table, number
            ),
            row["disease_abbr"].strip(),
        )
        for number, row in enumerate(rows, start=2)
    ]


def _read_csv(table: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                raise InputError(f"{table} lacks the column {missing[0]}; it needs {columns}.")
            rows = list(reader)
    except OSError as error:
        raise InputError(f"{table}: {error.strerror}; cases.format wants it there.") from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{table} is no UTF-8 table of comma-separated values.") from None
    for number, row in enumerate(rows, start=2):
        if any(not (row.get(name) or "").strip() for name in columns):
            raise InputError(f"{table}, line {number}: a value is missing.")
    return rows


def _listed(folder: Path, name: str, table: Path, number: int) -> Path:
    path = folder / name.strip()
    if not path.is_file():
        raise InputError(f"{table}, line {number}: the file it names does not exist.")
    if not path.resolve().is_relative_to(table.parent.resolve()):
        raise InputError(f"{table}, line {number}: the file it names lies outside the folder.")
    return path
