"""Where a backbone's first weights come from when it is no hub: a file on this machine."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth_pipeline import models, weight_files
from synth_pipeline.errors import InputError
from synth_pipeline.store import file_sha256
from synth_pipeline.weight_files import UnusableFileError, by

if TYPE_CHECKING:
    import torch

#: `True`: what is published; `embedded`: what was learned on phantoms and lies in this package;
#: any other text: a folder with a file for each backbone.
Pretrained = bool | str
EMBEDDED = Path(__file__).parent / "assets" / "phantom-backbones"
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
#: The layers of Parkhi's VGG-Face (2015, table 3) by the names that timm gives them.
_VGG_CONVOLUTIONS = {
    f"conv{block}_{number}": f"features.{place}"
    for block, places in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)), 1)
    for number, place in enumerate(places, 1)
}
_VGG_LAYERS = {
    **_VGG_CONVOLUTIONS,
    "fc6": "pre_logits.fc1",
    "fc7": "pre_logits.fc2",
    "fc8": "head.fc",
    "classifier.0": "pre_logits.fc1",
    "classifier.3": "pre_logits.fc2",
    "classifier.6": "head.fc",
}


def local_file(
    name: str, stems: Sequence[str], pretrained: Pretrained, unpublished: bool
) -> Path | None:
    """The file that a backbone starts from; none where timm knows where to get the weights.

    Args:
        name: of the backbone in the configuration, for messages.
        stems: file names without ending that are taken for its weights, in this order.
        pretrained: not false.
        unpublished: whether there is no address to get them from; then the user's cache is
            looked in.

    Raises:
        InputError: there is no such file.
    """
    if pretrained == "embedded":
        path = EMBEDDED / f"{stems[0]}.safetensors"
        if path.exists():
            return path
        known = ", ".join(sorted(file.stem for file in EMBEDDED.glob("*.safetensors")))
        raise InputError(
            f"recognition.pretrained is embedded, but there are no such weights for {name}; "
            f"they exist for {known or 'no backbone'}."
        )
    if pretrained is True and not unpublished:
        return None
    folder = models.default_model_dir() / "weights" if pretrained is True else Path(str(pretrained))
    if pretrained is not True and not folder.is_dir():
        what = f"{folder} is a file" if folder.is_file() else f"there is no folder {folder}"
        raise InputError(
            f"recognition.pretrained: {what}; name a folder that holds a file for each backbone, "
            "or choose true, false or embedded."
        )
    for stem in stems:
        for ending in _ENDINGS:
            if weight_files.is_there(folder / f"{stem}{ending}"):
                return folder / f"{stem}{ending}"
    raise InputError(
        f"The weights of {name} are missing: put them into {folder} as {stems[0]}.safetensors "
        "(or .pth, .pt, .bin)."
    )


def file_identity(path: Path) -> str:
    """The SHA-256 of a file of weights; read once, for it is large and a study asks often.

    Raises:
        InputError: it cannot be read.
    """
    _check_there(path)
    facts = path.stat()
    return _file_identity(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=64)
def _file_identity(path: Path, changed_ns: int, size_bytes: int) -> str:
    return file_sha256(path)


def load(model: "torch.nn.Module", path: Path, name: str, classifier: Sequence[str]) -> None:
    """Put a file's weights into a network, all but the classifier's; see `fitting`."""
    model.load_state_dict(fitting(model, path, name, classifier), strict=False)


def fitting(
    model: "torch.nn.Module", path: Path, name: str, classifier: Sequence[str]
) -> dict[str, "torch.Tensor"]:
    """A file's weights under the names that a network has for them, all but the classifier's.

    Args:
        model: of timm; on the meta device it has all that is compared.
        path: safetensors, or a state dictionary that torch saved; by timm's names, by those of
            the model's own authors where timm can translate them, and for VGG by torchvision's
            and Parkhi's.
        name: of the backbone, for messages.
        classifier: names of the layers that stay as they are.

    Raises:
        InputError: the file is damaged, or of another network.
    """
    import sys

    found = _read(path, name)
    own = model.state_dict()
    wanted = {
        key: value
        for key, value in own.items()
        if not key.startswith(tuple(f"{layer}." for layer in classifier))
        and not key.endswith("num_batches_tracked")
    }
    if type(model).__name__ == "VGG":
        found = _as_timm_names_vgg(found, own)
    # Several of timm's modules translate the names that the model's authors gave.
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if translate is not None and not wanted.keys() <= found.keys():
        try:
            found = translate(dict(found), model)
        except Exception:
            # Of another network, as is said below. Each module fails in its own way.
            found = {}
    missing = [key for key in wanted if key not in found]
    if missing:
        raise InputError(
            f"{path} holds no weights of {name}: {len(missing)} of {len(wanted)} layers' are not "
            f"in it, the first {missing[0]}; put those of this network there."
        )
    for key, value in wanted.items():
        there, here = tuple(found[key].shape), tuple(value.shape)
        if there != here:
            raise InputError(
                f"{path} holds weights of another shape than those of {name}: {key} is "
                f"{by(there)} there and {by(here)} here; put those of this network there."
            )
    counters = {key: found[key] for key in own if key not in wanted and key in found}
    counters = {k: v for k, v in counters.items() if k.endswith("num_batches_tracked")}
    return {**{key: found[key] for key in wanted}, **counters}


def _check_there(path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            weight_files.header(path)
        else:
            weight_files.len_bytes(path)
    except UnusableFileError as error:
        remedy = error.remedy or f"put the file into {path.parent} again"
        raise InputError(f"recognition.pretrained: {error.what}; {remedy}.") from None


def _read(path: Path, name: str) -> Mapping[str, "torch.Tensor"]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_there(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Tensors and plain values only: a planted pickle is refused.
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"{path}, the weights of {name}, cannot be read ({type(error).__name__}); "
            "put the file there again."
        ) from None
    except Exception as error:
        # pickle's own errors have no common base but this.
        raise InputError(
            f"{path}, the weights of {name}, is no state dictionary of tensors "
            f"({type(error).__name__}); save it as safetensors."
        ) from None
    for wrapping in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(
            f"{path}, the weights of {name}, is no state dictionary of tensors; save it as "
            "safetensors."
        )
    return {key.removeprefix("module."): value for key, value in state.items()}


def _as_timm_names_vgg(
    found: Mapping[str, "torch.Tensor"], own: Mapping[str, "torch.Tensor"]
) -> dict[str, "torch.Tensor"]:
    named = {}
    for key, value in found.items():
        layer, _, kind = key.rpartition(".")
        name = f"{_VGG_LAYERS.get(layer, layer)}.{kind}"
        # timm's first two linear layers are convolutions over the last map.
        same = name in own and value.numel() == own[name].numel()
        named[name] = value.reshape(own[name].shape) if same else value
    return named
