"""The case registry: every case ever accepted, on the side where it will stay.

A folder that only its owner can read:

* `cases.jsonl`: a line that counts and checksums the rest, then a line for each case in the order
  of arrival. It is only added to, and replaced in one step: a killed process leaves the old one or
  the new one, and a changed byte or a missing line is found when it is read.
* `images/<case_id>.png`: the sanitised photos, named by the hash of their pixels.
* `fingerprints/`: what is compared to find the same photo again; a cache.
* `announced.json`: how many of the cases somebody was told of.
"""

import contextlib
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from synth_pipeline import likeness
from synth_pipeline.cases import case_id_of
from synth_pipeline.class_names import marked_id, short_id, shown
from synth_pipeline.disk_errors import sentence_of
from synth_pipeline.errors import InputError
from synth_pipeline.fingerprints import Fingerprints
from synth_pipeline.json_files import parse_object
from synth_pipeline.near_duplicates import alike
from synth_pipeline.registry_prints import RegistryPrints
from synth_pipeline.seeds import derived_seed
from synth_pipeline.store import canonical_json, file_sha256, write_in_one_step

_INDEX = "cases.jsonl"
_ANNOUNCED = "announced.json"
_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A case as it was registered; never changed.

    Attributes:
        arrival: hash of the file that brought it and of where it lay, so that the file is known
            again when a killed run left it in the inbox.
        when: UTC, ISO 8601.
        sha256: of the stored picture's file.
        perceptual_hash: 16 hexadecimal digits.
    """

    case_id: str
    class_id: str
    class_name: str
    subject_id: str
    split: Literal["train", "test"]
    arrival: str
    when: str
    width_px: int
    height_px: int
    sha256: str
    perceptual_hash: str


@dataclass(frozen=True)
class Verdict:
    """What became of a photo: `accepted`, the same as a case of its class, or of another class."""

    outcome: Literal["accepted", "duplicate", "clash"]
    case_id: str
    reason: str = ""


class Registry:
    """A registry's folder.

    Args:
        folder: made, with mode 700, when the first case is added.
        landmark_model: `face_landmarker.task`, to know a cropped or turned photo again by its face;
            none compares whole pictures only.
    """

    def __init__(self, folder: Path, landmark_model: Path | None = None) -> None:
        self.folder = folder
        self._landmark_model = landmark_model
        self._body = b""

    @cached_property
    def entries(self) -> list[Entry]:
        """All cases, the oldest first; none where there is no registry yet.

        Raises:
            InputError: the index was changed, or cannot be read.
        """
        path = self.folder / _INDEX
        try:
            head, _, body = path.read_bytes().partition(b"\n")
            known = parse_object(head)
            if hashlib.sha256(body).hexdigest() != known["sha256"] or known["version"] != _VERSION:
                raise ValueError
            self._body = body
            return [Entry(**parse_object(line)) for line in body.splitlines()]
        except FileNotFoundError:
            if (self.folder / "images").is_dir() and any((self.folder / "images").iterdir()):
                raise InputError(
                    f"The case registry {self.folder} has lost its {_INDEX}; "
                    "bring it back from a backup."
                ) from None
            return []
        except OSError as error:
            raise InputError(
                f"The case registry {path} cannot be read ({error.strerror})."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"The case registry {path} was changed or cut short since it was written; "
                "bring it back from a backup."
            ) from None

    @cached_property
    def _classes(self) -> dict[str, str]:
        """Names of the registered classes to their ids."""
        return {entry.class_name: entry.class_id for entry in self.entries}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the registry; the kernel frees it however the process ends.

        Raises:
            DiskError: there is no room.
            InputError: another process holds it, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "images").mkdir(mode=0o700, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=0, mode=0o600):
                self.__dict__.pop("entries", None)
                self.__dict__.pop("_classes", None)
                self._prints = RegistryPrints(self.folder / "fingerprints", self._landmark_model)
                if not self.entries:
                    self._write(b"")
                self._sweep()
                yield
        except Timeout:
            raise InputError(
                f"Another process is adding to the case registry {self.folder}; wait for it."
            ) from None
        except OSError as error:
            told = sentence_of(error, f"The case registry {self.folder}")
            if told is None:
                raise
            raise told from None

    def image(self, entry: Entry) -> Path:
        """Where the sanitised photo of a case lies."""
        return self._image(entry.case_id)

    def verify(self) -> None:
        """Look at every byte.

        Raises:
            InputError: the index or a photo was changed or is gone.
        """
        for entry in self.entries:
            path = self.image(entry)
            try:
                good = file_sha256(path) == entry.sha256
            except OSError as error:
                raise InputError(
                    f"The case registry's photo {path} cannot be read ({error.strerror}); "
                    "bring it back from a backup."
                ) from None
            if not good:
                raise InputError(
                    f"The case registry's photo {path} was changed; bring it back from a backup."
                )

    def opened_like(self, class_id: str) -> str | None:
        """Of a class with one case: the name of another that differs in case only, if there is."""
        if sum(entry.class_id == class_id for entry in self.entries) != 1:
            return None
        own = next(name for name, known in self._classes.items() if known == class_id)
        others = (name for name in self._classes if name != own)
        return next((name for name in others if name.casefold() == own.casefold()), None)

    def arrived(self, arrival: str) -> Entry | None:
        """The case that this very file brought, if it did."""
        return next((entry for entry in self.entries if entry.arrival == arrival), None)

    def class_id(self, name: str) -> str:
        """The id of a class by its folder's name, which need not be registered yet.

        Names that are shown alike are one class; those that differ in case are two, as in a folder
        of class folders. An id that is given stays, whatever other names come.
        """
        if (known := self._classes.get(shown(name))) is not None:
            return known
        short = short_id(name)
        return short if short and short not in self._classes.values() else marked_id(name)

    def side(
        self, class_id: str, subject_id: str, *, seed: int, fraction: float
    ) -> Literal["train", "test"]:
        """Where a case of this subject belongs.

        A known subject stays on its side. The first of a class is for training. Of the others,
        each is held out with the probability that the share still owes: with n subjects and t of
        them held out, n·fraction − t. So the share is right in expectation, and never far off in
        any class, though nobody is ever moved.

        Args:
            class_id: of the class.
            subject_id: of the subject; with the seed it decides.
            seed: of the study.
            fraction: share of each class's subjects that is to be held out.
        """
        sides = {e.subject_id: e.split for e in self.entries if e.class_id == class_id}
        if subject_id in sides:
            return sides[subject_id]
        if not sides:
            return "train"
        owed = (len(sides) + 1) * fraction - Counter(sides.values())["test"]
        drawn = derived_seed(seed, "side", subject_id) / 2**63
        return "test" if drawn < owed else "train"

    def add(
        self,
        image: Image.Image,
        *,
        class_name: str,
        subject: str | None,
        arrival: str,
        seed: int,
        fraction: float,
    ) -> Verdict:
        """Register a sanitised photo, unless it is there; durable when this returns.

        Args:
            image: RGB, as `photos.sanitise` gives it.
            class_name: its folder's name.
            subject: who it is, where that is known; else the photo is a person of its own.
            arrival: of the file, see `Entry`.
            seed: of the study, for the side.
            fraction: share that is held out.
        """
        class_id, case_id = self.class_id(class_name), case_id_of(image)
        same = next((entry for entry in self.entries if entry.case_id == case_id), None)
        if same is None:
            # The picture first: a case that is in the index is there.
            stream = io.BytesIO()
            image.save(stream, "PNG")
            write_in_one_step(self._image(case_id), stream.getvalue())
            prints = self._prints.of(self._image(case_id))
            same = self._nearest(prints)
        if same is not None:
            if same.case_id != case_id:
                self._image(case_id).unlink()
            if same.class_id == class_id:
                return Verdict("duplicate", same.case_id, f"shows the same as {same.case_id}")
            return Verdict(
                "clash",
                same.case_id,
                f"shows the same as {same.case_id} of another class, {same.class_id}: "
                "one of the two diagnoses is wrong",
            )
        subject_id = case_id.replace("case-", "subject-")
        if subject is not None:
            text = f"{class_id}\0{subject}".encode(errors="surrogateescape")
            named = hashlib.sha256(text).hexdigest()
            subject_id = f"subject-{named[:16]}"
        entry = Entry(
            case_id=case_id,
            class_id=class_id,
            class_name=shown(class_name),
            subject_id=subject_id,
            split=self.side(class_id, subject_id, seed=seed, fraction=fraction),
            arrival=arrival,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            width_px=image.width,
            height_px=image.height,
            sha256=hashlib.sha256(stream.getvalue()).hexdigest(),
            perceptual_hash=_perceptual_hash(self._image(case_id)),
        )
        # The lines that are there are written again as they are: each case costs the same to tell.
        self._write(self._body + canonical_json(asdict(entry)) + b"\n")
        self.entries.append(entry)
        self._classes[entry.class_name] = entry.class_id
        self._prints.add(self._image(case_id), prints)
        return Verdict("accepted", case_id)

    def unannounced(self) -> list[Entry]:
        """The cases that nobody was told of yet."""
        return self.entries[self._announced() :]

    def announced(self, count: int) -> None:
        """Note that somebody was told of the first so many cases."""
        write_in_one_step(self.folder / _ANNOUNCED, json.dumps({"count": count}).encode())

    def _announced(self) -> int:
        try:
            count = parse_object((self.folder / _ANNOUNCED).read_bytes())["count"]
            return max(0, int(count))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return 0  # to tell twice costs a study that is cached; not to tell loses a case

    def _nearest(self, prints: Fingerprints) -> Entry | None:
        """The first case that shows the same photo."""
        known = self._prints.registered([self.image(entry) for entry in self.entries])
        found = np.flatnonzero(alike(prints, known)[0])
        return self.entries[found[0]] if len(found) else None

    def _image(self, case_id: str) -> Path:
        return self.folder / "images" / f"{case_id}.png"

    def _sweep(self) -> None:
        """Remove what a killed process left: pictures that never came into the index."""
        known = {self.image(entry) for entry in self.entries}
        for path in [*(self.folder / "images").iterdir(), *self.folder.glob(f".{_INDEX}-*")]:
            if path not in known:
                path.unlink()

    def _write(self, body: bytes) -> None:
        digest = hashlib.sha256(body).hexdigest()
        head = {"version": _VERSION, "count": body.count(b"\n"), "sha256": digest}
        write_in_one_step(self.folder / _INDEX, canonical_json(head) + b"\n" + body)
        self._body = body


def _perceptual_hash(photo: Path) -> str:
    nowhere = np.full((1, 478, 3), np.nan)
    return f"{int(likeness.describe([photo], nowhere).hashes[0]):016x}"
