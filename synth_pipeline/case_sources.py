"""Where real photos come from: folders of classes, a table, or RDFace's layout."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from synth_pipeline import case_folders, case_tables
from synth_pipeline.class_names import printable
from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError, PassingError
from synth_pipeline.source_photos import Source, SourcePhoto
from synth_pipeline.store import canonical_json, file_sha256

__all__ = ["Source", "SourcePhoto", "contents", "digest_of", "look", "scan", "source_digest"]


def scan(config: CasesConfig) -> list[SourcePhoto]:
    """The photos of the source; see `look`."""
    return look(config).photos


def look(config: CasesConfig) -> Source:
    """List the source without decoding anything.

    Raises:
        InputError: the folder or table is missing, empty, or not laid out as `cases.format` says.
    """
    source = Path(config.source)
    read = {
        "imagefolder": case_folders.read,
        "csv": case_tables.read_cases,
        "rdface": case_tables.read_rdface,
    }[config.format]
    try:
        if not source.exists():
            raise InputError(f"cases.source {source} does not exist; name the folder of photos.")
        found = read(source)
    except OSError as error:
        raise InputError(f"cases.source {source} cannot be read ({error.strerror}).") from None
    if not found.photos:
        raise InputError(f"cases.source {source} holds no photo; put one folder per class in it.")
    names = sorted({photo.class_name for photo in found.photos})
    if config.max_classes is not None:
        names = names[: config.max_classes]
    photos = sorted(
        (photo for photo in found.photos if photo.class_name in set(names)),
        key=lambda photo: (photo.class_name, str(photo.path)),
    )
    photos, notes = _two_sides(_one_spelling(photos))
    return Source(photos, [*found.notes, *notes])


def source_digest(photos: Sequence[SourcePhoto]) -> str:
    """A hash of what the photos are, not of where they lie or what their files are called.

    Raises:
        PassingError: a photo cannot be read now.
    """
    return digest_of(photos, contents(photos))


def digest_of(photos: Sequence[SourcePhoto], content: Mapping[SourcePhoto, str]) -> str:
    """As `source_digest`, of photos whose `contents` are known."""
    rows = sorted(
        [
            photo.class_name,
            photo.fault or content[photo],
            # Names that are no text are hashed as bytes.
            printable(photo.subject or ""),
            photo.split or "",
        ]
        for photo in photos
    )
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def contents(photos: Sequence[SourcePhoto]) -> dict[SourcePhoto, str]:
    """The SHA-256 of each photo's file, but of those that cannot be photos.

    Raises:
        PassingError: a photo cannot be read now.
    """
    try:
        return {photo: file_sha256(photo.path) for photo in photos if not photo.fault}
    except OSError as error:
        raise PassingError(
            f"A photo of cases.source cannot be read ({error.strerror}); nothing was set aside. "
            "Check the disk and the permissions, then run the same command again."
        ) from None


def _one_spelling(photos: Sequence[SourcePhoto]) -> list[SourcePhoto]:
    """Names of people that differ in case and spaces only are one person of their class."""
    spellings: dict[tuple[str, str], set[str]] = defaultdict(set)
    for photo in photos:
        if photo.subject is not None:
            spellings[photo.class_name, _plain(photo.subject)].add(photo.subject)
    return [
        photo
        if photo.subject is None
        else replace(photo, subject=min(spellings[photo.class_name, _plain(photo.subject)]))
        for photo in photos
    ]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _two_sides(photos: list[SourcePhoto]) -> tuple[list[SourcePhoto], list[str]]:
    """Where nothing else is held out, validation photos are; else they are trained on."""
    sides = {photo.split for photo in photos}
    notes = []
    if "val" in sides:
        side = "train" if "test" in sides else "test"
        what = "trained on: each fold validates on its own" if "test" in sides else "held out"
        photos = [replace(p, split=side) if p.split == "val" else p for p in photos]
        notes.append(f"The validation photos of cases.source are {what}.")
    only_held_out = sorted(
        {photo.class_name for photo in photos}
        - {photo.class_name for photo in photos if photo.split != "test"}
    )
    if only_held_out:
        names = ", ".join(map(printable, only_held_out))
        notes.append(f"All photos of {names} are held out, so nothing is trained on them.")
    return photos, notes
