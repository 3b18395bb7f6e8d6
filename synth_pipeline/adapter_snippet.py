"""The Python lines on an adapter's card: they load the base model, and draw with the adapter."""

import json
from pathlib import Path

from synth_pipeline import weight_files
from synth_pipeline.base_files import NETWORKS
from synth_pipeline.base_model import EMBEDDED, EMBEDDED_FOLDER, BaseModel
from synth_pipeline.config import StudyConfig

_LONGEST = 88
_PIPELINE = "StableDiffusionPipeline"


def snippet(config: StudyConfig, base: BaseModel, prompt: str) -> str:
    """Lines that run in the adapter's folder, wherever that is.

    Args:
        config: of the study, which says how the base model was named and how it draws best.
        base: the same base model on this machine.
        prompt: to draw with.
    """
    settings, drawing = config.dreambooth, config.sampling
    named = _arguments(settings.base_model, base.identity.partition("+vae:")[0])
    embedded = EMBEDDED in (settings.base_model, settings.base_vae)
    lines = ["from importlib.resources import files", ""] if embedded else []
    pipeline = f"AutoencoderKL, {_PIPELINE}" if base.vae_folder else _PIPELINE
    lines += ["import torch", f"from diffusers import {pipeline}", ""]
    arguments = [*named, "dtype=torch.float32", "safety_checker=None"]
    # Nothing but half precision lies there, under names that are not looked for by themselves.
    unet = weight_files.find(base.folder / "unet", NETWORKS["unet"][1])
    if unet and unet.variant:
        arguments.append(f'variant="{unet.variant}"')
    if base.vae_folder and settings.base_vae:
        part = "/vae" if settings.base_vae == EMBEDDED else ""
        other = _arguments(settings.base_vae, base.identity.partition("+vae:")[2], part)
        lines += _call("vae = AutoencoderKL.from_pretrained", [*other, "dtype=torch.float32"])
        arguments.append("vae=vae")
    lines += _call(f"pipeline = {_PIPELINE}.from_pretrained", arguments)
    drawn = [
        _text(prompt),
        f"num_inference_steps={drawing.steps}",
        f"guidance_scale={drawing.guidance_scale:g}",
    ]
    lines.append('pipeline.load_lora_weights(".")  # the folder of this card')
    return "\n".join([*lines, *_call("image = pipeline", drawn, ".images[0]")])


def where(config: StudyConfig, base: BaseModel) -> str:
    """Sentences that say which base model that is, and where others find it."""
    own, _, other = base.identity.partition("+vae:")
    told = [_sentence("The base model", config.dreambooth.base_model, own)]
    if config.dreambooth.base_vae:
        told.append(_sentence("Its autoencoder", config.dreambooth.base_vae, other))
    return " ".join(told)


def _sentence(what: str, name: str, identity: str) -> str:
    if name == EMBEDDED:
        return f"{what} comes with the package synth-pipeline (its files: `{identity}`)."
    if identity.startswith("sha256:"):
        return (
            f"{what} lay in a folder called `{_folder(name)}` (its files: `{identity}`): put a "
            "copy beside this card, or write its path instead of the name."
        )
    return f"{what} `{identity}` is downloaded from its hub, at this very commit."


def _arguments(name: str, identity: str, part: str = "") -> list[str]:
    """What `from_pretrained` is given to find a model again."""
    if name == EMBEDDED:
        inside = EMBEDDED_FOLDER.relative_to(Path(__file__).parent).as_posix() + part
        return [f'files("{__package__}").joinpath("{inside}")']
    if identity.startswith("sha256:"):
        return [_text(f"./{_folder(name)}")]
    hub_id, _, commit = identity.partition("@")
    return [f'"{hub_id}"', f'revision="{commit}"']


def _folder(name: str) -> str:
    return Path(name).absolute().name


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _call(function: str, arguments: list[str], end: str = "") -> list[str]:
    line = f"{function}({', '.join(arguments)}){end}"
    if len(line) <= _LONGEST:
        return [line]
    return [f"{function}(", *(f"    {each}," for each in arguments), f"){end}"]
