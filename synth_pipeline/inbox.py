"""Where new photos arrive: `inbox/<class>/<photo>` or `inbox/<class>/<subject>/<photo>`.

A folder, or a prefix that fsspec can reach, such as `s3://bucket/inbox`. Nothing is followed that
leads out of it, and nothing is taken that is still being written. One item that cannot be read or
removed is one item: only an inbox that cannot be reached at all is an error.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from synth_pipeline.class_names import normalised
from synth_pipeline.errors import InputError
from synth_pipeline.not_photos import PassedOver
from synth_pipeline.shipped import INSTALL

#: What our own disk says when there is no room, which is not the inbox's fault.
DISK_FULL = {errno.ENOSPC, errno.EROFS, errno.EDQUOT}
#: What file systems tell of a file that changes with it.
_CHANGES = ("size", "mtime", "ino", "LastModified", "ETag", "updated", "last_modified")


@dataclass(frozen=True)
class Arrival:
    """A file in the inbox.

    Attributes:
        path: as its file system knows it.
        place: below the inbox: class, subject where there is one, and name.
        state: changes when the file does.
        kind: `file`, `link` (it only leads somewhere), `closed` (a folder that cannot be read), or
            `other`, such as a pipe.
    """

    path: str
    place: tuple[str, ...]
    size_bytes: int
    state: tuple[Any, ...]
    kind: str

    @property
    def class_name(self) -> str | None:
        """The class's folder; none for a file that lies in no folder."""
        is_folder = len(self.place) > 1 or self.kind == "closed"
        return normalised(self.place[0]) if is_folder else None

    @property
    def subject(self) -> str | None:
        """The folder in the class's, which names the person, whatever lies below it."""
        return normalised(self.place[1]) if len(self.place) > 2 else None


@dataclass(frozen=True)
class Seen:
    """What lies in an inbox: files, class folders that hold none, and what is passed over."""

    arrivals: list[Arrival]
    empty: list[str]
    passed: PassedOver


class Inbox:
    """An inbox's place.

    Args:
        place: a folder, or an address that fsspec understands.

    Raises:
        InputError: the package for such addresses is missing, or there is nothing.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.fs, self.root = _file_system(place)
        with self._explained():
            # Where there are no folders, an empty inbox is not there; its bucket must be.
            top = self.root if self.folder else self.root.partition("/")[0]
            if not (self.fs.isdir(self.root) or (not self.folder and self.fs.exists(top))):
                raise InputError(f"The inbox {place} is no folder that is there; make it.")

    @property
    def folder(self) -> Path | None:
        """The folder, where the inbox is one on this machine."""
        return Path(self.root).resolve() if isinstance(self.fs, LocalFileSystem) else None

    def look(self) -> Seen:
        """List what lies there now, by place."""
        self.fs.invalidate_cache()
        arrivals: list[Arrival] = []
        empty: list[str] = []
        passed = PassedOver()
        with self._explained():
            for top in self._list(self.root):
                found = list(self._walk(top, (_name(top),), passed))
                arrivals += [arrival for arrival in found if arrival is not None]
                if top["type"] == "directory" and not found:
                    empty.append(_name(top))
        return Seen(sorted(arrivals, key=lambda a: a.place), empty, passed)

    def fetch(self, arrival: Arrival, to: Path) -> None:
        """Copy a file.

        Raises:
            PermissionError: it cannot be read.
            FileNotFoundError: it is gone.
            OSError: of a folder on this machine: this file cannot be read now.
            InputError: the inbox's machine cannot be reached.
        """
        with (
            self._explained(passing=self._of_one_item),
            self.fs.open(arrival.path, "rb") as source,
            to.open("wb") as stream,
        ):
            while block := source.read(2**20):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())

    def link(self, arrival: Arrival, to: Path) -> bool:
        """Give a file a second name instead of copying it; tells whether that was possible."""
        if self.folder is None:
            return False
        try:
            os.link(arrival.path, to, follow_symlinks=False)
        except OSError:
            return False  # another file system, or somebody else's file
        return True

    def is_as_it_was(self, arrival: Arrival) -> bool:
        """Whether a file is still the one that was seen."""
        self.fs.invalidate_cache()
        with self._explained(passing=(FileNotFoundError,)):
            try:
                info = self.fs.info(arrival.path)
            except FileNotFoundError:
                return False
        return _arrival(info, arrival.place).state == arrival.state

    def remove(self, arrival: Arrival) -> None:
        """Take a file, or a link itself, out of the inbox; raises as `fetch`."""
        with self._explained(passing=self._of_one_item):
            self.fs.rm_file(arrival.path)

    @property
    def _of_one_item(self) -> tuple[type[Exception], ...]:
        """What stops one file and not the others."""
        return (OSError,) if self.folder else (PermissionError, FileNotFoundError)

    def _walk(
        self, info: dict[str, Any], place: tuple[str, ...], passed: PassedOver
    ) -> Iterator[Arrival | None]:
        """What lies below a place; none for what is passed over."""
        is_folder = info["type"] == "directory" and not info.get("islink")
        if passed.takes(place[-1], is_folder=is_folder):
            yield None
        elif not is_folder:
            yield _arrival(info, place)
        else:
            try:
                below = self._list(info["name"])
            except OSError as error:
                if self.folder is None:
                    raise
                yield Arrival(info["name"], place, 0, (error.strerror,), "closed")
                return
            for each in below:
                yield from self._walk(each, (*place, _name(each)), passed)

    def _list(self, path: str) -> list[dict[str, Any]]:
        # Object stores list a folder's own marker among its files.
        own = path.rstrip("/")
        try:
            found = self.fs.ls(path, detail=True)
        except FileNotFoundError:
            return []  # the last file of it was taken away
        return [info for info in found if info["name"].rstrip("/") != own]

    def _explained(self, passing: tuple[type[Exception], ...] = ()) -> "_Explained":
        return _Explained(self.place, passing)


class _Explained:
    """Turn what a file system raises into one sentence; botocore's errors have no common base."""

    def __init__(self, place: str, passing: tuple[type[Exception], ...]) -> None:
        self.place, self.passing = place, passing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, (InputError, *self.passing)):
            return
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return
        if isinstance(error, OSError) and error.strerror:
            why = error.strerror
        else:
            # A message may hold a file's name; its kind does not.
            why = type(error).__name__
        raise InputError(
            f"The inbox {self.place} cannot be read or emptied ({why}); correct that and run "
            "again: nothing is lost."
        ) from None


def _file_system(place: str) -> tuple[Any, str]:
    scheme = place.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(place)
    except ImportError:
        if scheme == "s3":
            raise InputError(f"The inbox {place} needs s3fs: {INSTALL} s3fs.") from None
        raise InputError(
            f"The inbox {place} needs a package for {scheme}:// that is not installed."
        ) from None
    except ValueError:
        raise InputError(f"The inbox {place}: fsspec knows no {scheme}:// addresses.") from None


def _name(info: dict[str, Any]) -> str:
    return str(info["name"]).rstrip("/").rpartition("/")[2]


def _arrival(info: dict[str, Any], place: tuple[str, ...]) -> Arrival:
    told = [info.get(key) for key in _CHANGES]
    kind = "link" if info.get("islink") else info["type"] if info["type"] == "file" else "other"
    return Arrival(info["name"], place, int(info["size"] or 0), tuple(map(str, told)), kind)
