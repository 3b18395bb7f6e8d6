"""Files of weights on this machine: which of a folder are loaded, and what their headers say.

Only headers are read, so a model of gigabytes is looked at in milliseconds, and without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_pipeline.json_files import parse_object

#: What a repository calls its weights in half precision, the first that is there.
VARIANTS = ("fp16", "bf16")
#: Endings of pickles, which can run code when they are loaded.
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_LFS = b"version https://git-lfs"
_LFS_REMEDY = "run `git lfs pull` there"

Shape = tuple[int, ...]


class UnusableFileError(Exception):
    """A file that cannot be loaded.

    Attributes:
        what: what is wrong, with the file's name.
        remedy: how to fix it, where more is to do than to copy the file again.
    """

    def __init__(self, what: str, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True)
class Weights:
    """The weights of one network.

    Attributes:
        files: one, or the shards.
        variant: of the file's name: none, `fp16` or `bf16`.
        shapes: of every tensor.
    """

    files: tuple[Path, ...]
    variant: str | None
    shapes: Mapping[str, Shape]


def find(folder: Path, stem: str) -> Weights | None:
    """The safetensors that a library would load from a folder, their headers checked.

    Args:
        folder: of one network, such as `unet/`.
        stem: of the file's name: `diffusion_pytorch_model` or `model`.

    Returns:
        The weights in full precision or, where there are none, of the first variant; none where
        there is no file of that name.

    Raises:
        UnusableFileError: a file is missing, cut short, or something else.
    """
    for variant in (None, *VARIANTS):
        index = folder / f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json"
        single = folder / f"{stem}{f'.{variant}' if variant else ''}.safetensors"
        if is_there(index):
            files = _shards(index)
        elif is_there(single):
            files = (single,)
        else:
            continue
        shapes = {name: shape for file in files for name, shape in header(file).items()}
        return Weights(files, variant, shapes)
    return None


def header(path: Path) -> dict[str, Shape]:
    """The shapes of the tensors in a safetensors file, whose length is checked.

    Raises:
        UnusableFileError: it is cut short, no safetensors file, or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    where = _short(path)
    size_bytes = len_bytes(path)
    try:
        # The library checks that the file is as long as its header says.
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}
    except (SafetensorError, OSError, ValueError):
        raise UnusableFileError(
            f"{where} is damaged or cut short ({size_bytes:,} bytes are not a whole safetensors "
            "file)"
        ) from None
    if not shapes:
        raise UnusableFileError(f"{where} holds no weights")
    return shapes


def len_bytes(path: Path) -> int:
    """The length of a file that is there in earnest.

    Raises:
        UnusableFileError: it cannot be read, is a link to nothing, or stands for a file that Git
            LFS has not fetched.
    """
    where = _short(path)
    try:
        if path.exists() and not path.is_file():
            raise UnusableFileError(f"{where} is not a file")
        with path.open("rb") as stream:
            begin = stream.read(len(_LFS))
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        what = "is a link to nothing" if path.is_symlink() else "is missing"
        raise UnusableFileError(f"{where} {what}") from None
    except OSError as error:
        raise UnusableFileError(f"{where} cannot be read ({error.strerror})") from None
    if begin == _LFS:
        raise UnusableFileError(f"{where} is a Git LFS pointer, not the file itself", _LFS_REMEDY)
    return size_bytes


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        UnusableFileError: there is none.
    """
    len_bytes(path)
    try:
        return parse_object(path.read_bytes())
    except (OSError, ValueError):
        raise UnusableFileError(f"{_short(path)} is not a readable JSON object") from None


def is_there(path: Path) -> bool:
    """Whether a folder lists it; a link to nothing is listed too, and told as such when read."""
    return path.is_symlink() or path.exists()


def by(shape: Shape) -> str:
    """A shape for people, such as 64×8×3×3."""
    return "×".join(map(str, shape)) or "one number"


def _shards(index: Path) -> tuple[Path, ...]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(map(_is_plain, names.values())):
        raise UnusableFileError(f"{_short(index)} does not say which file holds which weight")
    files = tuple(index.parent / name for name in sorted(set(names.values())))
    gone = [file for file in files if not is_there(file)]
    if gone:
        raise UnusableFileError(
            f"{_short(gone[0])} is missing, one of the {len(files)} files that {index.name} names"
        )
    return files


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
