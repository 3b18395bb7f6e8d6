"""New photos: taken out of the inbox, checked, registered or set aside; none lost or counted twice.

A file leaves the inbox last, when the registry or the quarantine holds it durably. So a run that is
killed anywhere is followed by one that finds the file again, knows it by its hash, and goes on.
"""

import contextlib
import errno
import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from synth_pipeline.class_names import is_text, printable
from synth_pipeline.config import StudyConfig
from synth_pipeline.disk_errors import sentence_of
from synth_pipeline.errors import InputError, PassingError
from synth_pipeline.image_files import LARGEST_BYTES
from synth_pipeline.inbox import DISK_FULL, Arrival, Inbox
from synth_pipeline.models import face_landmarker_path
from synth_pipeline.not_photos import PassedOver
from synth_pipeline.photos import UnusablePhotoError, sanitise
from synth_pipeline.progress import Progress, silent
from synth_pipeline.quarantine import Held, Quarantine
from synth_pipeline.registry import Registry
from synth_pipeline.registry_cases import registry_of
from synth_pipeline.source_photos import side_of
from synth_pipeline.store import file_sha256

#: A file that still grows after so many looks stays for the next time.
_LOOKS = 5


@dataclass
class Ingested:
    """What became of the files, by class id.

    Attributes:
        accepted: registered now.
        known: registered before from this very file, by a run that was killed.
        duplicates: show a case of their class again; kept in the quarantine.
        quarantined: cannot be used; kept in the quarantine with the reason.
        left: cannot be read, and were left in the inbox.
        growing: files that are still being written, left for the next time.
        passed: what is no photo by its name, such as `.DS_Store` or a caption; left where it is.
        empty: class folders without a file.
        alike: new classes, and the names of others that differ from theirs in case only.
    """

    accepted: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    growing: int = 0
    passed: PassedOver = field(default_factory=PassedOver)
    empty: list[str] = field(default_factory=list)
    alike: dict[str, str] = field(default_factory=dict)


def run(
    inbox: Inbox,
    registry: Registry,
    quarantine: Quarantine,
    *,
    seed: int,
    fraction: float,
    settle_s: float,
    progress: Progress = silent,
    sleep: Callable[[float], None] = time.sleep,
) -> Ingested:
    """Take what lies in the inbox.

    Args:
        inbox: of photos in class folders.
        registry: of the cases.
        quarantine: for what cannot be a case.
        seed: of the study; with the subject it decides the side of a newcomer.
        fraction: share of each class's subjects that is held out.
        settle_s: a file is taken when it did not change for so long.
        progress: told after each file.
        sleep: waits.

    Raises:
        InputError: inbox, registry or quarantine cannot be used; what was done so far stays done.
    """
    _keep_apart(inbox, registry, quarantine)
    take = _Take(inbox, registry, quarantine, seed, fraction)
    with registry.locked(), quarantine.locked(), _disk_explained(registry.folder):
        seen = inbox.look()
        for _ in range(_LOOKS if seen.arrivals else 0):
            sleep(settle_s)
            before = {arrival.place: arrival.state for arrival in seen.arrivals}
            seen = inbox.look()
            waiting = [a for a in seen.arrivals if a.place not in take.unreadable]
            settled = [a for a in waiting if before.get(a.place) == a.state]
            for number, arrival in enumerate(settled, start=1):
                take(arrival)
                progress(number, len(settled), "files")
            if len(settled) == len(waiting):
                break
        still = [a for a in inbox.look().arrivals if a.place not in take.unreadable]
        take.done.growing = len(still)
        take.done.empty = [registry.class_id(name) for name in seen.empty]
        take.done.passed = seen.passed
    return take.done


def of_study(
    config: StudyConfig, root: Path, place: str, *, settle_s: float, progress: Progress = silent
) -> Ingested:
    """Take what lies in an inbox into a study's registry.

    Args:
        config: of a study whose cases come from the registry.
        root: folder of the studies; the quarantine is made there.
        place: the inbox.
        settle_s: see `run`.
        progress: told after each file.

    Raises:
        InputError: as of `run`, or the study reads its cases from elsewhere, or no inbox is named,
            or the landmark model is missing.
    """
    if config.cases.format != "registry":
        raise InputError(
            f"cases.format is {config.cases.format}, so the study would not see new cases; "
            "set cases.format to registry."
        )
    if not place:
        raise InputError("No inbox is named; give --inbox DIR or set cases.inbox.")
    return run(
        Inbox(place),
        registry_of(config.cases, root, face_landmarker_path()),
        quarantine_of(root),
        seed=config.seed,
        fraction=config.cases.test_fraction,
        settle_s=settle_s,
        progress=progress,
    )


def quarantine_of(root: Path) -> Quarantine:
    """The quarantine of all studies under a root."""
    return Quarantine(root / "quarantine")


def told(done: Ingested) -> list[str]:
    """What became of the files, in lines that name no file."""
    words = {
        "accepted": done.accepted,
        "registered before": done.known,
        "duplicates, kept in the quarantine": done.duplicates,
        "in quarantine": done.quarantined,
        "left, cannot be read": done.left,
    }
    lines = [
        f"{counted.total()} {what}: "
        + ", ".join(f"{name or '(no class)'} {n}" for name, n in sorted(counted.items()))
        for what, counted in words.items()
        if counted
    ]
    if done.growing:
        lines.append(f"{done.growing} still being written, left for the next time")
    if sentence := done.passed.in_words():
        lines.append(f"{sentence} They are left where they are.")
    for class_id, name in sorted(done.alike.items()):
        lines.append(f"new class {class_id}: its name differs from {name} in case only")
    if done.empty:
        lines.append(f"empty class folders: {', '.join(sorted(done.empty))}")
    return lines or ["the inbox is empty"]


class _LeftError(Exception):
    """Why one file stays in the inbox, in words that name no file."""


class _GoneError(Exception):
    """Whoever brought a file took it back."""


class _Take:
    """One file after another, each to its end."""

    def __init__(
        self, inbox: Inbox, registry: Registry, quarantine: Quarantine, seed: int, fraction: float
    ) -> None:
        self.inbox, self.registry, self.quarantine = inbox, registry, quarantine
        self.seed, self.fraction = seed, fraction
        self.done = Ingested()
        self.unreadable: set[tuple[str, ...]] = set()

    def __call__(self, arrival: Arrival) -> None:
        """Register a file or set it aside, then take it out of the inbox."""
        name = arrival.class_name
        class_id = self.registry.class_id(name) if name else ""
        if arrival.kind != "file":
            self._is_no_file(arrival, class_id)
            return
        staged = self.quarantine.staging()
        try:
            is_linked = arrival.size_bytes > LARGEST_BYTES and self.inbox.link(arrival, staged)
            if not is_linked:
                self._fetch(arrival, staged)
            if self.inbox.is_as_it_was(arrival):
                self._decide(arrival, class_id, staged, "linked" if is_linked else "")
                if self.inbox.is_as_it_was(arrival):
                    self._remove(arrival)
        except _GoneError:
            pass
        except _LeftError as left:
            staged.unlink(missing_ok=True)
            self._leave(arrival, class_id, str(left))
        staged.unlink(missing_ok=True)

    def _fetch(self, arrival: Arrival, staged: Path) -> None:
        """Copy a file that may be a photo; what stops this one does not stop the others."""
        if arrival.size_bytes > shutil.disk_usage(self.quarantine.folder).free:
            raise _LeftError("is larger than the room that is left on the disk")
        try:
            self.inbox.fetch(arrival, staged)
        except FileNotFoundError:
            raise _GoneError from None
        except OSError as error:
            if error.errno in DISK_FULL - {errno.EROFS}:
                raise _LeftError("is larger than the room that is left on the disk") from None
            if error.errno in DISK_FULL:
                raise
            raise _LeftError(f"cannot be read ({error.strerror})") from None

    def _remove(self, arrival: Arrival) -> None:
        try:
            self.inbox.remove(arrival)
        except FileNotFoundError:
            raise _GoneError from None
        except OSError as error:
            raise _LeftError(
                f"was taken in, but cannot be removed from the inbox ({error.strerror})"
            ) from None

    def _decide(self, arrival: Arrival, class_id: str, staged: Path, content: str) -> None:
        known = _name_of(arrival, content or file_sha256(staged))
        if (entry := self.registry.arrived(known)) is not None:
            self.done.known[entry.class_id] += 1
            return
        outcome, reason, case_id = "unusable", "", ""
        if arrival.class_name is None:
            reason = "lies in no class folder"
        elif not is_text(arrival.class_name):
            reason = "lies in a class folder whose name is not UTF-8; rename it"
        elif side := next((name for name in arrival.place[:-1][:2] if side_of(name)), ""):
            reason = f"lies in a folder {side}, but the registry decides who is held out"
        elif arrival.size_bytes > LARGEST_BYTES:
            reason = f"has more than {LARGEST_BYTES >> 20} MB"
        else:
            try:
                verdict = self.registry.add(
                    sanitise(staged).image,
                    class_name=arrival.class_name,
                    subject=arrival.subject,
                    arrival=known,
                    seed=self.seed,
                    fraction=self.fraction,
                )
            except UnusablePhotoError as error:
                reason = str(error)
            except PassingError:
                raise _LeftError(
                    "cannot be decoded now, for want of memory or of the disk"
                ) from None
            else:
                outcome, reason, case_id = verdict.outcome, verdict.reason, verdict.case_id
        if outcome == "accepted":
            self.done.accepted[class_id] += 1
            if like := self.registry.opened_like(class_id):
                self.done.alike[class_id] = like
            return
        held = _held(known, arrival, class_id, outcome, reason, case_id, f"files/{known}")
        self.quarantine.keep(held, staged)
        counted = self.done.duplicates if outcome == "duplicate" else self.done.quarantined
        counted[class_id] += 1

    def _is_no_file(self, arrival: Arrival, class_id: str) -> None:
        if arrival.kind == "link":
            # The file it leads to is none of ours, and stays where it is.
            known = _name_of(arrival, "link")
            reason = "is a link, which is not followed; give the file itself"
            self.quarantine.keep(_held(known, arrival, class_id, "unusable", reason), None)
            try:
                self._remove(arrival)
            except _GoneError:
                return
            except _LeftError as left:
                self._leave(arrival, class_id, str(left))
                return
            self.done.quarantined[class_id] += 1
        elif arrival.kind == "closed":
            why = arrival.state[0]
            self._leave(arrival, class_id, f"is a folder that cannot be read ({why})")
        else:
            self._leave(arrival, class_id, "is neither a file nor a folder")

    def _leave(self, arrival: Arrival, class_id: str, reason: str) -> None:
        known = _name_of(arrival, "left")
        self.quarantine.keep(_held(known, arrival, class_id, "unusable", reason), None)
        self.unreadable.add(arrival.place)
        self.done.left[class_id] += 1


def _name_of(arrival: Arrival, content: str) -> str:
    """A hash by which the file is known again; with its content in it, no name can be guessed."""
    text = "\0".join((*arrival.place, content))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def _held(
    known: str,
    arrival: Arrival,
    class_id: str,
    outcome: str,
    reason: str,
    case_id: str = "",
    stored: str = "",
) -> Held:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    # A name that is no text is shown as well as it can be; Parquet takes UTF-8 only.
    file = printable("/".join(arrival.place))
    return Held(known, when, class_id, file, outcome, reason, case_id, stored)


def _keep_apart(inbox: Inbox, registry: Registry, quarantine: Quarantine) -> None:
    """No photo may be taken from where it is kept.

    Raises:
        InputError: the inbox holds the registry or the quarantine, or lies in one.
    """
    folder = inbox.folder
    for ours in (registry.folder.resolve(), quarantine.folder.resolve()):
        if folder and (folder.is_relative_to(ours) or ours.is_relative_to(folder)):
            raise InputError(
                f"The inbox {inbox.place} and {ours} lie in each other; choose another inbox."
            )


@contextlib.contextmanager
def _disk_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        told = sentence_of(error, f"{folder} or the quarantine")
        if told is None:
            raise
        raise type(told)(f"{told} What is not registered is still in the inbox.") from None
