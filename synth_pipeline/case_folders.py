"""Folders of classes: `<class>/<photo>`, `<class>/<person>/<photo>`, also below `train` and `test`.

Nothing is followed that leads out of the source, and what is no regular file is never opened.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from synth_pipeline.class_names import is_text, normalised, printable
from synth_pipeline.errors import InputError
from synth_pipeline.not_photos import PassedOver
from synth_pipeline.source_photos import Source, SourcePhoto, side_of


def read(source: Path) -> Source:
    """List the photos of all class folders.

    Args:
        source: holds a folder for each class, or folders such as `train` and `test` that do.

    Raises:
        InputError: it is not laid out so, or a class folder is empty or has no name in UTF-8.
        OSError: the source itself cannot be read.
    """
    if not source.is_dir():
        raise InputError(f"cases.source {source} is a file; name the folder of class folders.")
    passed = PassedOver()
    folders = _folders(source, passed)
    if not folders:
        if passed.loose:
            raise InputError(
                f"cases.source {source} holds files but no class folders; "
                "put the photos of each class into a folder named after the class."
            )
        return Source([], _notes([], passed))
    sides = {folder.name: side_of(folder.name) for folder in folders}
    photos = []
    if any(sides.values()):
        _check_sides(source, sides)
        for folder in folders:
            classes = _folders(folder, passed)
            if not classes:
                raise InputError(
                    f"The folder {folder.name} of cases.source {source} holds no class folders; "
                    "put the photos of each class into a folder named after the class."
                )
            photos += _of_classes(classes, source, passed, sides[folder.name])
    else:
        photos = _of_classes(folders, source, passed, None)
    return Source(photos, _notes(photos, passed))


def _folders(folder: Path, passed: PassedOver) -> list[Path]:
    """The folders in a folder, also where a link leads to one; counts what else is there."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False  # a link that leads to itself
        if passed.takes(entry.name, is_folder=is_folder):
            continue
        if is_folder:
            found.append(Path(entry.path))
        else:
            passed.loose += 1
    return found


def _check_sides(source: Path, sides: dict[str, str | None]) -> None:
    """A split is one whole: no class folders beside it, and two sides at least."""
    others = [name for name, side in sides.items() if side is None]
    ours = " and ".join(name for name, side in sides.items() if side)
    if others:
        raise InputError(
            f"cases.source {source} holds {ours}, which name the sides of a split, beside "
            f"{len(others)} other folders; put all class folders below {ours}, or none."
        )
    if "train" not in sides.values() or len(set(sides.values())) == 1:
        raise InputError(
            f"cases.source {source} holds only {ours} of a split; name the folder of class folders "
            f"itself ({source / next(iter(sides))}), or put train and test beside each other."
        )


def _of_classes(
    folders: list[Path], source: Path, passed: PassedOver, side: str | None
) -> list[SourcePhoto]:
    photos: list[SourcePhoto] = []
    if nameless := [printable(folder.name) for folder in folders if not is_text(folder.name)]:
        raise InputError(
            f"cases.source {source}: names of class folders are not UTF-8 "
            f"({', '.join(nameless)}); rename them, for example with convmv."
        )
    empty = []
    for folder in folders:
        files = _walk(folder, (), source, passed)
        if source.resolve().is_relative_to(folder.resolve()):
            files = iter([(folder, (), "is a link to a folder that cases.source lies in")])
        found = [
            _photo(path, parts, normalised(folder.name), fault, side)
            for path, parts, fault in files
        ]
        photos += found
        if not found:
            empty.append(folder.relative_to(source).as_posix())
    if empty:
        which = f"folder {empty[0]} of cases.source holds"
        if len(empty) > 1:
            which = f"folders {', '.join(empty)} of cases.source hold"
        raise InputError(
            f"The class {which} no photo (empty, or only files that are passed over); "
            "add photos or remove it."
        )
    return photos


def _photo(
    path: Path, parts: tuple[str, ...], class_name: str, fault: str | None, side: str | None
) -> SourcePhoto:
    below = parts
    if parts and side is None and (side := side_of(parts[0])) is not None:
        parts = parts[1:]
    # Whatever lies below a person's folder shows that person.
    subject = normalised(parts[0]) if parts else None
    return SourcePhoto(path, class_name, subject, side, fault, below)


def _walk(
    folder: Path, parts: tuple[str, ...], source: Path, passed: PassedOver
) -> Iterator[tuple[Path, tuple[str, ...], str | None]]:
    """Every file below a folder, the folders it lies in, and why it must not be opened."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, parts[:-1], f"is a folder that cannot be read ({error.strerror})"
        return
    for entry in entries:
        is_folder = entry.is_dir(follow_symlinks=False)
        if passed.takes(entry.name, is_folder=is_folder):
            continue
        path = Path(entry.path)
        if is_folder:
            yield from _walk(path, (*parts, entry.name), source, passed)
        else:
            yield path, parts, _fault(path, source)


def _fault(path: Path, source: Path) -> str | None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            if path.is_symlink() and not path.resolve().is_relative_to(source.resolve()):
                return "is a link out of cases.source, which is not followed; put the file there"
            return None if os.access(path, os.R_OK) else "cannot be read (Permission denied)"
    except FileNotFoundError:
        return "is a link that leads nowhere"
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "a link that leads to itself"
        return f"cannot be read ({why})"
    if stat.S_ISDIR(mode):
        return "is a link to a folder, which is not followed; put the folder there"
    return "is a pipe, a socket or a device, not a file"


def _notes(photos: list[SourcePhoto], passed: PassedOver) -> list[str]:
    notes = [passed.in_words()] if passed.in_words() else []
    people: dict[str, list[str | None]] = defaultdict(list)
    for photo in photos:
        people[photo.class_name].append(photo.subject)
    for name, subjects in sorted(people.items()):
        if len(subjects) > 1 and subjects[0] is not None and len(set(subjects)) == 1:
            notes.append(
                f"All {len(subjects)} photos of {printable(name)} lie in one folder below the "
                "class's, which is read as one person; put them into the class folder if it shows "
                "several."
            )
    return notes
