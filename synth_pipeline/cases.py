"""Real photos: found, sanitised, set aside where they must be, and split by subject.

A photo leaves its folder only as pixels. Its name is kept in one place, `quarantine.parquet`, for
the person who has to mend it; ids are hashes of pixels.
"""

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError
from synth_pipeline.photos import UnusablePhotoError, sanitise
from synth_pipeline.progress import Progress, silent
from synth_pipeline.store import canonical_json, file_sha256

_IGNORED = {"thumbs.db", "desktop.ini"}
DUPLICATE = "shows the same pixels as another photo of its class"
CLASH = "shows the same pixels as a photo of another class"


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


@dataclass(frozen=True)
class Case:
    """A sanitised photo in the case set."""

    case_id: str
    class_id: str
    class_name: str
    subject_id: str
    split: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Quarantined:
    """A file that was set aside: its name in the source, and why."""

    file: str
    class_id: str
    reason: str


@dataclass(frozen=True)
class CaseSet:
    """The cases of a study.

    Attributes:
        cases: sorted by class and id.
        failed: classes without any usable photo, each with one sentence.
    """

    cases: tuple[Case, ...]
    failed: dict[str, str]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Ids of the classes that have a training photo, sorted."""
        return tuple(sorted({case.class_id for case in self.cases if case.split == "train"}))

    def class_name(self, class_id: str) -> str:
        """What a prompt calls the class."""
        return next(case.class_name for case in self.cases if case.class_id == class_id)

    def train(self, class_id: str) -> list[Case]:
        """The training photos of a class."""
        return [c for c in self.cases if c.class_id == class_id and c.split == "train"]

    def test(self) -> list[Case]:
        """All held-out photos."""
        return [case for case in self.cases if case.split == "test"]


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


def class_ids(names: Iterable[str]) -> dict[str, str]:
    """Class name to id: lower-case letters, digits and hyphens; a number where two are equal."""
    ids: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for name in sorted(set(names)):
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "class"
        taken[slug] += 1
        ids[name] = slug if taken[slug] == 1 else f"{slug}-{taken[slug]}"
    return ids


def source_digest(photos: Sequence[SourcePhoto]) -> str:
    """A hash of what the photos are, not of where they lie or what their files are called."""
    rows = sorted(
        [photo.class_name, _content(photo.path), photo.subject or "", photo.split or ""]
        for photo in photos
    )
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def _content(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"


def run(
    config: CasesConfig,
    *,
    photos: Sequence[SourcePhoto],
    seed: int,
    out_dir: Path,
    progress: Progress = silent,
) -> dict[str, float]:
    """Import photos into `images/`, `cases.parquet` and `quarantine.parquet`.

    Args:
        config: for the share that is held out.
        photos: as `scan` gives them.
        seed: decides who is held out.
        out_dir: an empty folder.
        progress: told after each photo.

    Raises:
        InputError: fewer than two classes have a usable photo.
    """
    ids = class_ids(photo.class_name for photo in photos)
    (out_dir / "images").mkdir()
    kept: dict[str, tuple[SourcePhoto, str]] = {}
    quarantined: list[Quarantined] = []
    # In the order of their content, so that which of two equal photos stays does not hang on names.
    ordered = sorted(photos, key=lambda photo: (photo.class_name, _content(photo.path)))
    clashes: set[str] = set()
    sizes_px: dict[str, tuple[int, int]] = {}
    for done, photo in enumerate(ordered, start=1):
        class_id = ids[photo.class_name]
        try:
            image = sanitise(photo.path).image
        except UnusablePhotoError as error:
            quarantined.append(Quarantined(photo.path.name, class_id, str(error)))
            continue
        finally:
            progress(done, len(ordered), "")
        pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        case_id = f"case-{pixels[:16]}"
        if case_id in kept:
            first = kept[case_id][0]
            if first.class_name == photo.class_name:
                quarantined.append(Quarantined(photo.path.name, class_id, DUPLICATE))
            else:
                # One of the two diagnoses is wrong, and nobody here can tell which.
                clashes.add(case_id)
                quarantined.append(Quarantined(photo.path.name, class_id, CLASH))
            continue
        image.save(out_dir / "images" / f"{case_id}.png")
        sizes_px[case_id] = image.size
        kept[case_id] = (photo, class_id)
    for case_id in sorted(clashes):
        photo, class_id = kept.pop(case_id)
        (out_dir / "images" / f"{case_id}.png").unlink()
        quarantined.append(Quarantined(photo.path.name, class_id, CLASH))
    rows = []
    splits = _split(kept, config.test_fraction, seed)
    for case_id, (photo, class_id) in sorted(kept.items(), key=lambda item: (item[1][1], item[0])):
        file = f"images/{case_id}.png"
        rows.append(
            {
                "case_id": case_id,
                "class_id": class_id,
                "class_name": " ".join(photo.class_name.replace("_", " ").split()),
                "subject_id": _subject_id(photo, case_id),
                "split": splits[case_id],
                "file": file,
                "width_px": sizes_px[case_id][0],
                "height_px": sizes_px[case_id][1],
                "sha256": file_sha256(out_dir / file),
            }
        )
    if len({row["class_id"] for row in rows}) < 2:
        why = Counter(entry.reason for entry in quarantined).most_common(1)
        reason = f" ({why[0][1]} files: each {why[0][0]})" if why else ""
        raise InputError(
            f"Fewer than two classes of cases.source have a usable photo{reason}; "
            "`synth-pipeline cases check CONFIG` lists every file."
        )
    pq.write_table(pa.Table.from_pylist(rows), out_dir / "cases.parquet")
    schema = pa.schema([(name, pa.string()) for name in ("file", "class_id", "reason")])
    quarantined.sort(key=lambda entry: (entry.class_id, entry.file))
    table = pa.Table.from_pylist([asdict(entry) for entry in quarantined], schema)
    pq.write_table(table, out_dir / "quarantine.parquet")
    return {"photos": len(photos), "cases": len(rows), "quarantined": len(quarantined)}


def load(folder: Path) -> CaseSet:
    """Read a case set from a `cases` artifact."""
    cases = tuple(
        Case(
            row["case_id"],
            row["class_id"],
            row["class_name"],
            row["subject_id"],
            row["split"],
            folder / row["file"],
            row["sha256"],
        )
        for row in pq.read_table(folder / "cases.parquet").to_pylist()
    )
    usable = {case.class_id for case in cases}
    failed = dict.fromkeys(
        sorted({entry.class_id for entry in quarantine(folder)} - usable),
        "no photo of it can be read; `synth-pipeline cases check CONFIG` says why.",
    )
    return CaseSet(cases, failed)


def quarantine(folder: Path) -> list[Quarantined]:
    """What was set aside; of equal photos in one class the first is kept, so nothing is lost."""
    return [Quarantined(**row) for row in pq.read_table(folder / "quarantine.parquet").to_pylist()]


def parts(folder: Path) -> dict[str, str]:
    """Digests of what stages hang on: each class's training photos, and the held-out ones.

    A new held-out photo changes `test` and nothing else: this is what keeps it out of everything.
    """
    found: dict[str, list[Any]] = defaultdict(list)
    case_set = load(folder)
    for case in case_set.cases:
        part = f"train/{case.class_id}" if case.split == "train" else "test"
        found[part].append([case.case_id, case.class_id, case.class_name, case.subject_id])
    found.setdefault("test", [])
    return {
        name: hashlib.sha256(canonical_json(sorted(rows))).hexdigest()
        for name, rows in sorted(found.items())
    }


def _subject_id(photo: SourcePhoto, case_id: str) -> str:
    if photo.subject is None:
        return case_id.replace("case-", "subject-")
    name = f"{photo.class_name}\0{photo.subject}"
    return "subject-" + hashlib.sha256(name.encode()).hexdigest()[:16]


def _split(kept: dict[str, tuple[SourcePhoto, str]], fraction: float, seed: int) -> dict[str, str]:
    """Hold out whole subjects, class by class.

    Who is held out hangs on the seed and on the subject's own id, so a photo that comes to one
    class moves nobody in another. A class of one subject is for training only; of the others the
    share is rounded half up, which on RDFace's class sizes holds out about a quarter.
    """
    splits: dict[str, str] = {}
    subjects: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case_id, (photo, class_id) in kept.items():
        if photo.split is not None:
            splits[case_id] = photo.split
        else:
            subjects[class_id][_subject_id(photo, case_id)].append(case_id)
    for members in subjects.values():
        order = sorted(
            members, key=lambda subject: hashlib.sha256(f"{seed}\0{subject}".encode()).digest()
        )
        count = len(order)
        held_out = 0
        if count > 1 and fraction > 0:
            held_out = min(count - 1, max(1, int(count * fraction + 0.5)))
        for place, subject in enumerate(order):
            for case_id in members[subject]:
                splits[case_id] = "test" if place < held_out else "train"
    return splits


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
