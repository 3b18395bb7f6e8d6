"""Pictures decoded and resized once, in memory-mapped files that all runs and folds share.

A cache: it may be deleted at any time, and is filled again. Of each side length there is one file
of pixels, to which rows are only ever added, and one index that names each row by the SHA-256 of
the image file it was made of. A row is there once its line of the index is; the line carries a
checksum of the pixels, so a row that a killed process left half-written, or that was changed, is
made again. Subsets of the pictures are lists of rows.

The pixels are the patients': the folder is private, and lies in the store.
"""

import os
import re
import shutil
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from filelock import FileLock
from PIL import Image, ImageOps

from synth_pipeline.errors import InputError
from synth_pipeline.store import file_sha256
from synth_pipeline.stored_pictures import DamagedPictureError, read_picture

#: Raise it when `decode` gives other pixels for the same file.
_DECODER = 1
_CHUNK = 64
_GREY = (128, 128, 128)
#: A line of the index: SHA-256, row, CRC-32. The row fits into the number of a file's bytes.
_LINE = re.compile(r"([0-9a-f]{64}) ([0-9]{1,15}) ([0-9]{1,10})")


@dataclass(frozen=True)
class Pictures:
    """N pictures as rows of something larger.

    Attributes:
        pixels: (M, 3, S, S) uint8 sRGB.
        rows_N: which of them are ours.
    """

    pixels: torch.Tensor
    rows_N: np.ndarray

    def __len__(self) -> int:
        return len(self.rows_N)

    def take(self, chosen: np.ndarray) -> torch.Tensor:
        """(n, 3, S, S) uint8 of some of the pictures, copied together."""
        return self.pixels[torch.from_numpy(self.rows_N[chosen]).to(self.pixels.device)]

    def all(self) -> torch.Tensor:
        """(N, 3, S, S) uint8."""
        return self.take(np.arange(len(self)))

    def moved(self, device: torch.device) -> "Pictures":
        """The same pictures in a GPU's memory, where they take no more than a quarter of it."""
        if device.type != "cuda":
            return self
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if len(self) * self.pixels[0].numel() > free_bytes / 4:
            return self
        return Pictures(self.all().to(device), np.arange(len(self)))


def decode(path: Path, size_px: int) -> np.ndarray:
    """(3, size, size) uint8 sRGB of a file, padded to a square with grey.

    Raises:
        InputError: the file is damaged.
        StageError: the file cannot be read.
    """
    try:
        square = ImageOps.pad(
            read_picture(path),
            (size_px, size_px),
            method=Image.Resampling.BICUBIC,
            color=_GREY,
        )
    except DamagedPictureError:
        raise InputError(
            f"A stored image of {path.parent.parent.parent.name} is damaged; "
            "run the study again, and it is made anew."
        ) from None
    return np.asarray(square).transpose(2, 0, 1)


def decoded(files: Sequence[Path], size_px: int) -> Pictures:
    """Pictures read into memory, for a notebook that has no store.

    Raises:
        InputError: a file is damaged.
        StageError: a file cannot be read.
    """
    pixels = np.empty((len(files), 3, size_px, size_px), np.uint8)
    for start in range(0, len(files), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        pixels[chunk] = _decoded(files[chunk], size_px)
    return Pictures(torch.from_numpy(pixels), np.arange(len(files)))


class PictureStore:
    """Pictures by their files' content, in a folder that several processes use at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Each row's checksum is compared once in a process.
        self._verified: set[tuple[int, int]] = set()

    def pictures(
        self, files: Sequence[Path], size_px: int, sha256: Sequence[str] | None = None
    ) -> Pictures:
        """The pictures of files, decoded where they were not before.

        Args:
            files: N images of any size.
            size_px: side of the square pictures.
            sha256: of the files' bytes, where it is known already.

        Raises:
            InputError: a file is damaged.
            StageError: a file cannot be read.
        """
        names = list(sha256) if sha256 else [file_sha256(path) for path in files]
        path_of = dict(zip(names, files, strict=True))
        kept = _Kept(self.folder, size_px, self._verified)
        found = kept.read(path_of)
        if len(found) < len(path_of):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(kept.lock, mode=0o600):
                # Another process may have made some while we waited for the lock.
                missing = path_of.keys() - kept.read(path_of).keys()
                kept.add({name: path for name, path in path_of.items() if name in missing})
            found = kept.read(path_of)
        assert kept.pixels is not None
        rows_N = np.array([found[name] for name in names], np.int64)
        return Pictures(torch.from_numpy(kept.pixels), rows_N)


class _Kept:
    """The two files of one side length."""

    def __init__(self, folder: Path, size_px: int, verified: set[tuple[int, int]]) -> None:
        # Another Pillow may resize otherwise.
        stem = f"{size_px}px-pillow-{PIL.__version__}-{_DECODER}"
        self._data, self._index = folder / f"{stem}.pixels", folder / f"{stem}.index"
        self.lock = folder / f"{stem}.lock"
        self._shape = (3, size_px, size_px)
        self._row_bytes = 3 * size_px**2
        self._size_px = size_px
        self._verified = verified
        self.pixels: np.ndarray | None = None

    def read(self, names: Iterable[str]) -> dict[str, int]:
        """Map the pixels, and find the rows of those pictures that are there and whole."""
        if not (self._index.is_file() and self._data.is_file()):
            return {}
        # A damaged byte spoils its line, and that picture is made again.
        lines = self._index.read_bytes().decode("ascii", errors="replace").splitlines()
        facts = self._data.stat()
        rows = facts.st_size // self._row_bytes
        if not rows:
            return {}
        # Copy on write: nobody changes the file by a slip.
        self.pixels = np.memmap(self._data, np.uint8, "c", shape=(rows, *self._shape))
        wanted, found = set(names), {}
        for name, row, checksum in filter(None, map(_parse, lines)):
            if name in wanted and row < rows and self._is_whole(facts.st_ino, row, checksum):
                found[name] = row
        return found

    def add(self, files: dict[str, Path]) -> None:
        """Decode files and add a row for each; the lock is held."""
        for path in (self._data, self._index):
            _clear_the_way(path)
        with (
            open(self._data, "ab", opener=_private) as data,
            open(self._index, "ab", opener=_private) as index,
        ):
            # What a killed process left of a row is cut off.
            whole = data.seek(0, os.SEEK_END) // self._row_bytes
            data.truncate(whole * self._row_bytes)
            if index.tell():
                index.write(b"\n")
            names = list(files)
            for start in range(0, len(names), _CHUNK):
                chunk = names[start : start + _CHUNK]
                lines = []
                pictures = _decoded([files[name] for name in chunk], self._size_px)
                for name, picture in zip(chunk, pictures, strict=True):
                    pixels = picture.tobytes()
                    data.write(pixels)
                    lines.append(f"{name} {whole} {zlib.crc32(pixels)}\n")
                    whole += 1
                data.flush()
                os.fsync(data.fileno())
                index.write("".join(lines).encode())
                index.flush()

    def _is_whole(self, inode: int, row: int, checksum: int) -> bool:
        if (inode, row) not in self._verified:
            assert self.pixels is not None
            if zlib.crc32(self.pixels[row]) != checksum:
                return False
            self._verified.add((inode, row))
        return True


def _parse(line: str) -> tuple[str, int, int] | None:
    """Name, row and checksum of a line of the index; none of one that was cut off."""
    found = _LINE.fullmatch(line)
    return (found[1], int(found[2]), int(found[3])) if found else None


def _clear_the_way(path: Path) -> None:
    """Remove what is no file where one belongs: everything here can be made again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif not path.is_file():
        path.unlink(missing_ok=True)


def _decoded(files: Sequence[Path], size_px: int) -> list[np.ndarray]:
    """Decode on all cores, for Pillow lets others compute beside it."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda path: decode(path, size_px), files))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
