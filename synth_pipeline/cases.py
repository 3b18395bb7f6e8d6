"""Real photos: found, sanitised, set aside where they must be, and split by subject.

A photo leaves its folder only as pixels. Its name is kept in one place, `quarantine.parquet`, for
the person who has to mend it; ids are hashes of pixels.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from synth_pipeline.case_sources import SourcePhoto, contents, digest_of
from synth_pipeline.class_names import class_ids, shown
from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError, PassingError
from synth_pipeline.near_duplicates import LEAK, Shown, settle
from synth_pipeline.photos import UnusablePhotoError, sanitise
from synth_pipeline.progress import Progress, silent
from synth_pipeline.store import canonical_json, file_sha256

DUPLICATE = "shows the same pixels as another photo of its class"
CLASH = "shows the same pixels as a photo of another class"


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


class TooFewClassesError(InputError):
    """A recogniser needs two classes.

    Attributes:
        quarantined: what was set aside.
        cases: how many photos can be used.
    """

    def __init__(self, quarantined: Sequence[Quarantined], cases: int) -> None:
        why = Counter(entry.reason for entry in quarantined).most_common(1)
        reason = f" ({why[0][1]} files: each {why[0][0]})" if why else ""
        super().__init__(
            f"Fewer than two classes of cases.source have a usable photo{reason}; "
            "`synth-pipeline cases check CONFIG` lists every file."
        )
        self.quarantined, self.cases = list(quarantined), cases

    def __reduce__(self) -> tuple[type, tuple[list[Quarantined], int]]:
        return type(self), (self.quarantined, self.cases)


@dataclass(frozen=True)
class CaseSet:
    """The cases of a study.

    Attributes:
        cases: sorted by class and id.
        failed: classes without any usable photo, each with one sentence.
        lost: classes that go on with fewer photos than they were given, each with one sentence.
    """

    cases: tuple[Case, ...]
    failed: dict[str, str]
    lost: dict[str, str]

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


def case_id_of(image: Image.Image) -> str:
    """The id of a case: a hash of its pixels, so it tells nothing of the file."""
    pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    return f"case-{pixels[:16]}"


def run(
    config: CasesConfig,
    *,
    photos: Sequence[SourcePhoto],
    seed: int,
    out_dir: Path,
    landmark_model: Path | None = None,
    source_digest: str | None = None,
    progress: Progress = silent,
    sources: dict[str, SourcePhoto] | None = None,
) -> dict[str, float]:
    """Import photos into `images/`, `cases.parquet` and `quarantine.parquet`.

    Args:
        config: for the share that is held out.
        photos: as `case_sources.scan` gives them.
        seed: decides who is held out.
        out_dir: an empty folder.
        landmark_model: `face_landmarker.task`, to know a cropped or turned photo again by its face;
            none compares whole pictures only.
        source_digest: of the photos as somebody saw them before.
        progress: told after each photo.
        sources: is filled with the photo of each case, for the owner's terminal.

    Raises:
        TooFewClassesError: fewer than two classes have a usable photo.
        PassingError: a photo cannot be read or decoded now, or changed since it was seen.
    """
    ids = class_ids(photo.class_name for photo in photos)
    (out_dir / "images").mkdir()
    quarantined: list[Quarantined] = []
    content = contents(photos)
    if source_digest not in (None, digest_of(photos, content)):
        raise PassingError(
            "Photos of cases.source changed while they were imported; "
            "run again when nobody writes to them."
        )
    # In the order of their content, so that which of two equal photos stays does not hang on names.
    ordered = sorted(photos, key=lambda photo: (photo.class_name, photo.fault or content[photo]))
    equal: dict[str, list[tuple[SourcePhoto, str]]] = defaultdict(list)
    sizes_px: dict[str, tuple[int, int]] = {}
    for done, photo in enumerate(ordered, start=1):
        class_id = ids[photo.class_name]
        try:
            if photo.fault:
                raise UnusablePhotoError(photo.fault)
            image = sanitise(photo.path, content[photo]).image
        except UnusablePhotoError as error:
            quarantined.append(_aside(photo, class_id, str(error)))
            continue
        finally:
            progress(done, len(ordered), "")
        case_id = case_id_of(image)
        if case_id not in equal:
            image.save(out_dir / "images" / f"{case_id}.png")
            sizes_px[case_id] = image.size
        equal[case_id].append((photo, class_id))
    kept: dict[str, tuple[SourcePhoto, str]] = {}
    for case_id, shown_by in equal.items():
        chosen, reasons = _of_equal([photo for photo, _ in shown_by])
        if chosen is None:
            (out_dir / "images" / f"{case_id}.png").unlink()
        else:
            kept[case_id] = shown_by[chosen]
        quarantined += [_aside(*shown_by[place], why) for place, why in sorted(reasons.items())]
    aside, subjects = settle(
        [
            Shown(
                case_id,
                class_id,
                _subject_id(photo, case_id),
                photo.split,
                out_dir / "images" / f"{case_id}.png",
            )
            for case_id, (photo, class_id) in sorted(kept.items())
        ],
        landmark_model,
    )
    for case_id, reason in sorted(aside.items()):
        photo, class_id = kept.pop(case_id)
        (out_dir / "images" / f"{case_id}.png").unlink()
        quarantined.append(_aside(photo, class_id, reason))
    rows = []
    splits = _split(kept, subjects, config.test_fraction, seed)
    for case_id, (photo, class_id) in sorted(kept.items(), key=lambda item: (item[1][1], item[0])):
        file = f"images/{case_id}.png"
        rows.append(
            {
                "case_id": case_id,
                "class_id": class_id,
                "class_name": shown(photo.class_name),
                "subject_id": subjects[case_id],
                "split": splits[case_id],
                "file": file,
                "width_px": sizes_px[case_id][0],
                "height_px": sizes_px[case_id][1],
                "sha256": file_sha256(out_dir / file),
            }
        )
    if len({row["class_id"] for row in rows}) < 2:
        raise TooFewClassesError(quarantined, len(rows))
    if sources is not None:
        sources |= {case_id: photo for case_id, (photo, _) in kept.items()}
    write_tables(rows, quarantined, out_dir)
    return {"photos": len(photos), "cases": len(rows), "quarantined": len(quarantined)}


def _of_equal(photos: Sequence[SourcePhoto]) -> tuple[int | None, dict[int, str]]:
    """Which of photos with the same pixels stays, and why each of the others does not.

    A held-out one yields, so that it changes nothing in training. Of one class the first stays. Of
    two classes none does: one of the two diagnoses is wrong, and nobody here can tell which.
    """
    for_training = [place for place, photo in enumerate(photos) if photo.split != "test"]
    first, *others = for_training or range(len(photos))
    class_name = photos[first].class_name
    reasons = {
        place: DUPLICATE if photo.class_name == class_name else LEAK
        for place, photo in enumerate(photos)
        if place != first
    }
    if all(photos[place].class_name == class_name for place in others):
        return first, reasons
    return None, dict.fromkeys(range(len(photos)), CLASH)


def write_tables(
    rows: Sequence[Mapping[str, Any]], quarantined: Iterable[Quarantined], out_dir: Path
) -> None:
    """Write `cases.parquet` and `quarantine.parquet`."""
    pq.write_table(pa.Table.from_pylist(list(rows)), out_dir / "cases.parquet")
    schema = pa.schema([(name, pa.string()) for name in ("file", "class_id", "reason")])
    ordered = sorted(quarantined, key=lambda entry: (entry.class_id, entry.file))
    table = pa.Table.from_pylist([asdict(entry) for entry in ordered], schema)
    pq.write_table(table, out_dir / "quarantine.parquet")


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
    aside = Counter(entry.class_id for entry in quarantine(folder) if entry.reason != DUPLICATE)
    failed = dict.fromkeys(
        sorted(aside.keys() - usable),
        "no photo of it can be used; `synth-pipeline cases check CONFIG` says why.",
    )
    lost = {
        class_id: f"{aside[class_id]} of its files cannot be used and were set aside; "
        "`synth-pipeline cases check CONFIG` names them and says why."
        for class_id in sorted(aside.keys() & usable)
    }
    return CaseSet(cases, failed, lost)


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


def _aside(photo: SourcePhoto, class_id: str, reason: str) -> Quarantined:
    return Quarantined(photo.name, class_id, reason)


def _subject_id(photo: SourcePhoto, case_id: str) -> str:
    if photo.subject is None:
        return case_id.replace("case-", "subject-")
    name = f"{photo.class_name}\0{photo.subject}"
    return "subject-" + hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]


def _split(
    kept: Mapping[str, tuple[SourcePhoto, str]],
    subjects: Mapping[str, str],
    fraction: float,
    seed: int,
) -> dict[str, str]:
    """Hold out whole subjects, class by class.

    Where the source puts a photo of a subject, all of the subject goes. Who is held out of the
    others hangs on the seed and on the subject's own id, so a photo that comes to one class moves
    nobody in another. A class of one subject is for training only; of the others the share is
    rounded half up, which on RDFace's class sizes holds out about a quarter.
    """
    decided = {
        subjects[case_id]: photo.split for case_id, (photo, _) in kept.items() if photo.split
    }
    waiting: dict[str, set[str]] = defaultdict(set)
    for case_id, (_, class_id) in kept.items():
        if subjects[case_id] not in decided:
            waiting[class_id].add(subjects[case_id])
    for members in waiting.values():
        order = sorted(
            members, key=lambda subject: hashlib.sha256(f"{seed}\0{subject}".encode()).digest()
        )
        count = len(order)
        held_out = 0
        if count > 1 and fraction > 0:
            held_out = min(count - 1, max(1, int(count * fraction + 0.5)))
        decided |= {
            subject: "test" if place < held_out else "train" for place, subject in enumerate(order)
        }
    return {case_id: decided[subjects[case_id]] for case_id in kept}
