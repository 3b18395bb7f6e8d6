"""The recognisers' networks, by timm name, each with the input normalisation it was made for."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from synth_pipeline.errors import InputError
from synth_pipeline.store import file_sha256

#: `true`: what timm publishes; `embedded`: what was learned on phantoms and lies in this package.
Pretrained = bool | Literal["embedded"]
_EMBEDDED = Path(__file__).parent / "assets" / "phantom-backbones"


@dataclass(frozen=True)
class InputNorm:
    """What a backbone subtracts and divides by, for each of R, G, B, in units of 0..1."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


def check(name: str, pretrained: Pretrained, key: str = "recognition.backbones") -> None:
    """Make sure that timm has a backbone of this name; downloads nothing.

    Args:
        name: of a timm model.
        pretrained: which weights are wanted.
        key: of the configuration, for the message.

    Raises:
        InputError: it has none, or there are no embedded weights for it; others are named.
    """
    if pretrained == "embedded":
        _embedded_file(name)
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; see timm.list_models()."
        raise InputError(f"{key}: timm has no model {name}{hint}")


def weights_identity(name: str, pretrained: Pretrained) -> str:
    """Which first weights a backbone starts from, as it enters the content key."""
    if not pretrained:
        return "random"
    if pretrained == "embedded":
        return f"{name} sha256 {file_sha256(_embedded_file(name))}"
    import timm

    settings = timm.get_pretrained_cfg(name)
    source = getattr(settings, "hf_hub_id", None) or getattr(settings, "url", None) or "none"
    return f"{name} {getattr(settings, 'tag', '')} {source}".strip()


def create(name: str, *, classes: int, pretrained: Pretrained, dropout: float):  # type: ignore[no-untyped-def]
    """Build a backbone with an n-way linear head after dropout.

    Args:
        name: of a timm model.
        classes: outputs of the head.
        pretrained: start from timm's published weights, which are downloaded or taken from the
            hub's cache; or from the embedded ones.
        dropout: before the head, 0 to 1.

    Returns:
        A `torch.nn.Module` from (N, 3, H, W) float32 to (N, classes) logits, whose state
        dictionary `timm.create_model(name, num_classes=classes)` loads; and its `InputNorm`.

    Raises:
        InputError: the weights cannot be had.
    """
    import timm

    check(name, pretrained)
    other = {}
    if pretrained == "embedded":
        # Any number that is not `classes` makes timm leave the published head out.
        file = str(_embedded_file(name))
        other = {"pretrained_cfg_overlay": {"file": file, "num_classes": -1}}
    try:
        model = timm.create_model(
            name, pretrained=bool(pretrained), num_classes=classes, drop_rate=dropout, **other
        )
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        raise InputError(
            f"The pretrained weights of {name} are neither cached here nor can they be "
            "downloaded; set recognition.pretrained to false, or fill the hub's cache "
            f"({type(error).__name__})."
        ) from None
    settings = model.pretrained_cfg
    return model, InputNorm(tuple(settings["mean"]), tuple(settings["std"]))


def _embedded_file(name: str) -> Path:
    path = _EMBEDDED / f"{name}.safetensors"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in _EMBEDDED.glob("*.safetensors")))
        raise InputError(
            f"recognition.pretrained is embedded, but there are no such weights for {name}; "
            f"they exist for {known or 'no backbone'}."
        )
    return path
