"""The recognisers' networks: the paper's six under short names, and any of timm's by its own.

Each states the input normalisation it was made for. The paper's are `resnet152`, `densenet169`,
`facenet`, `vgg-face` (or `vgg16`, with ImageNet's weights), `swin-t` and `clip-vit-b32`.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from synth_pipeline import backbone_weights, model_hub
from synth_pipeline.backbone_weights import Pretrained
from synth_pipeline.errors import InputError

#: What timm looks for in a hub's repository.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")

Head = Literal["linear", "se"]


@dataclass(frozen=True)
class InputNorm:
    """What a backbone subtracts and divides by, for each of R, G, B, in units of 0..1."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


IMAGENET = InputNorm((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Backbone:
    """A network under a name of ours.

    Attributes:
        timm: the name timm knows it by, with the tag of the weights.
        norm: where it is not the one that timm states.
        files: further names that files of its weights go by, without ending.
        unpublished: no address is known to get the weights from.
    """

    timm: str
    norm: InputNorm | None = None
    files: tuple[str, ...] = ()
    unpublished: bool = False

    @property
    def architecture(self) -> str:
        """Timm's name without the tag."""
        return self.timm.split(".")[0]


NAMED = {
    "facenet": Backbone("inception_resnet_v1.vggface2", files=("20180402-114759-vggface2",)),
    "facenet-casia": Backbone(
        "inception_resnet_v1.casia", files=("20180408-102900-casia-webface",)
    ),
    # Parkhi et al. 2015: the mean face colour is subtracted from 0..255, and nothing divided.
    "vgg-face": Backbone(
        "vgg16",
        InputNorm((129.1863 / 255, 104.7624 / 255, 93.5940 / 255), (1 / 255,) * 3),
        ("vgg_face", "vgg_face_dag", "VGG_FACE", "vggface"),
        unpublished=True,
    ),
    "swin-t": Backbone("swin_tiny_patch4_window7_224.ms_in1k"),
    # OpenAI trained with another GELU than timm's model without "quickgelu" has.
    "clip-vit-b32": Backbone("vit_base_patch32_clip_quickgelu_224.openai"),
}


def named(name: str) -> Backbone:
    """The network that a name of ours or of timm's means."""
    return NAMED.get(name) or Backbone(name)


def check(name: str, pretrained: Pretrained, key: str = "recognition.backbones") -> None:
    """Make sure that there is a backbone of this name, and a file where one is wanted.

    Downloads nothing.

    Args:
        name: ours, or of a timm model.
        pretrained: which weights are wanted.
        key: of the configuration, for the message.

    Raises:
        InputError: there is none, or its weights are missing; others are named.
    """
    if pretrained:
        _local_file(name, pretrained)
    timm = _timm()
    if not timm.is_model(named(name).timm):
        known = [*NAMED, *timm.list_models()]
        near = difflib.get_close_matches(name.split(".")[0], known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; see timm.list_models()."
        raise InputError(f"{key}: timm has no model {name}{hint}")


def check_weights(
    name: str,
    pretrained: Pretrained,
    key: str = "recognition.backbones",
    size_px: int | None = None,
) -> None:
    """Make sure that a backbone's first weights can be had, and that a file's are its own.

    Downloads nothing; asks the hub once where its cache does not hold them.

    Args:
        name: of a backbone that `check` has passed.
        pretrained: which weights are wanted.
        key: of the configuration, for the message.
        size_px: side of the pictures, which some networks have fixed.

    Raises:
        InputError: they are neither cached nor can be downloaded, the file is damaged or of
            another network, or the pictures have a size that the network does not take.
    """
    import torch

    path = _local_file(name, pretrained) if pretrained else None
    settings = _timm().get_pretrained_cfg(named(name).timm)
    options = {} if size_px is None else _size_options(name, settings, size_px)
    if options or path is not None:
        # On this device a network has shapes and no content.
        with torch.device("meta"), _size_errors(name, settings, size_px if options else None):
            model = _timm().create_model(named(name).timm, pretrained=False, **options)
        if path is not None:
            backbone_weights.fitting(model, path, name, _classifier(model))
    if pretrained and path is None:
        _check_published(name, key)


def weights_identity(name: str, pretrained: Pretrained) -> str:
    """Which first weights a backbone starts from, as it enters the content key."""
    if not pretrained:
        return "random"
    path = _local_file(name, pretrained)
    if path is not None:
        return f"{name} sha256 {backbone_weights.file_identity(path)}"
    settings = _timm().get_pretrained_cfg(named(name).timm)
    source = getattr(settings, "hf_hub_id", None) or getattr(settings, "url", None) or "none"
    return f"{name} {getattr(settings, 'tag', '')} {source}".strip()


def create(  # type: ignore[no-untyped-def]
    name: str,
    *,
    classes: int,
    pretrained: Pretrained,
    dropout: float,
    head: Head = "linear",
    size_px: int | None = None,
):
    """Build a backbone with an n-way head.

    Args:
        name: ours, or of a timm model.
        classes: outputs of the head; with 0 the features come out.
        pretrained: start from published weights, which are downloaded or taken from the hub's
            cache; from the embedded ones; or from a folder's.
        dropout: before the head, 0 to 1.
        head: `linear`: dropout and one layer; `se`: the published one (`heads`).
        size_px: side of the pictures, where they are not what the network was made for.

    Returns:
        A `torch.nn.Module` from (N, 3, H, W) float32 to (N, classes) logits, whose state
        dictionary `timm.create_model` loads back (see `recipe`); and its `InputNorm`.

    Raises:
        InputError: the weights cannot be had or are of another network, or the pictures have a
            size that the network does not take.
    """
    check(name, pretrained)
    timm = _timm()
    one = named(name)
    path = _local_file(name, pretrained) if pretrained else None
    settings = timm.get_pretrained_cfg(one.timm)
    options = {} if head == "se" else {"drop_rate": dropout}
    if size_px is not None:
        options |= _size_options(name, settings, size_px)
    from_hub = bool(pretrained) and path is None
    if from_hub:
        _check_published(name, "recognition.pretrained")
    outputs = 0 if head == "se" else classes
    try:
        is_sized = "img_size" in options and not from_hub
        with _size_errors(name, settings, size_px if is_sized else None):
            model = timm.create_model(one.timm, pretrained=from_hub, num_classes=outputs, **options)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        if not from_hub:
            raise
        raise _out_of_reach(name, "recognition.pretrained", type(error).__name__) from None
    if path is not None:
        backbone_weights.load(model, path, name, _classifier(model))
    stated = model.pretrained_cfg
    norm = one.norm or InputNorm(tuple(stated["mean"]), tuple(stated["std"]))
    if head == "se" and classes:
        sized = {key: value for key, value in options.items() if key == "img_size"}
        architecture, arguments = recipe(name, head)
        whole = timm.create_model(
            architecture, num_classes=classes, drop_rate=dropout, **arguments, **sized
        )
        whole.body = model
        model = whole
    return model, norm


def recipe(name: str, head: Head) -> tuple[str, dict[str, str]]:
    """How `timm.create_model` builds what `create` built: a name, and further arguments.

    Names that timm does not have by itself (`inception_resnet_v1`, `with_se_head`) are known to it
    once this package's `facenet` and `heads` are imported.
    """
    architecture = named(name).architecture
    return ("with_se_head", {"backbone": architecture}) if head == "se" else (architecture, {})


def _timm() -> Any:
    """timm, with the models that we add to it."""
    import timm

    from synth_pipeline import facenet, heads  # noqa: F401

    return timm


def _local_file(name: str, pretrained: Pretrained) -> Path | None:
    one = named(name)
    stems = tuple(dict.fromkeys((name, one.timm, *one.files)))
    if not one.unpublished:
        stems = tuple(dict.fromkeys((*stems, one.architecture)))
    return backbone_weights.local_file(name, stems, pretrained, one.unpublished)


@contextmanager
def _size_errors(name: str, settings: Any, size_px: int | None) -> Iterator[None]:
    """Say of a network that cannot be built for a size what it was made for."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError):
        if size_px is None:
            raise
        raise InputError(
            f"recognition.size_px: {name} does not take pictures of {size_px} pixels; "
            f"{settings.input_size[1]} is what it was made for."
        ) from None


def _classifier(model: Any) -> tuple[str, ...]:
    """Names of a network's last layers, which are made anew for each study."""
    layers = model.pretrained_cfg["classifier"]
    return (layers,) if isinstance(layers, str) else tuple(layers or ())


def _check_published(name: str, key: str) -> None:
    """Make sure that published weights are cached, or that their address answers."""
    import torch

    settings = _timm().get_pretrained_cfg(named(name).timm)
    if settings is None or not settings.has_weights:
        raise InputError(
            f"{key}: no weights of {name} are published; set recognition.pretrained to false, or "
            f"to a folder that holds {name}.safetensors."
        )
    if settings.hf_hub_id:
        files = (settings.hf_hub_filename,) if settings.hf_hub_filename else _HUB_FILES
        cached = model_hub.is_cached(settings.hf_hub_id, files)
        reason = None if cached else model_hub.reason_unreachable(settings.hf_hub_id)
    else:
        file = Path(torch.hub.get_dir()) / "checkpoints" / settings.url.rpartition("/")[2]
        reason = None if file.is_file() else model_hub.reason_address_unreachable(settings.url)
    if reason:
        raise _out_of_reach(name, key, reason)


def _out_of_reach(name: str, key: str, reason: str) -> InputError:
    return InputError(
        f"{key}: the pretrained weights of {name} are neither cached here nor can they be "
        f"downloaded ({reason}); set recognition.pretrained to false, or to a folder that holds "
        f"{name}.safetensors, or fill the hub's cache where there is a network."
    )


def _size_options(name: str, settings: Any, size_px: int) -> dict[str, int]:
    """What a network must be told about pictures of another size than its own."""
    smallest = (getattr(settings, "min_input_size", None) or (3, 0, 0))[1]
    if size_px < smallest:
        raise InputError(
            f"recognition.size_px: {name} does not take pictures of {size_px} pixels; give at "
            f"least {smallest}."
        )
    fixed = getattr(settings, "fixed_input_size", False)
    return {"img_size": size_px} if fixed and size_px != settings.input_size[1] else {}
