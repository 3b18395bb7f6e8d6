"""Checkpoints in one file: what is in them, and the command that makes a folder of them."""

from pathlib import Path

from synth_pipeline import base_files, weight_files
from synth_pipeline.errors import InputError
from synth_pipeline.weight_files import PICKLED, Shape, UnusableFileError

#: Endings of files that hold weights.
ENDINGS = (".safetensors", *PICKLED)
_FAMILY = "choose a base of the Stable Diffusion 1.5 family"
# Names of the original repositories (CompVis/latent-diffusion), and of diffusers.
_LDM_UNET, _LDM_VAE = "model.diffusion_model.", "first_stage_model."
_LDM_TEXT = "cond_stage_model."
_LDM_SDXL = "conditioner.embedders."


def refusal(key: str, path: Path) -> InputError:
    """Why a file is not loaded as it is, with the command that converts it where one does.

    It is not converted on every load: that takes the memory of the model twice, and wants
    configurations and a vocabulary that are not in the file.

    Args:
        key: of the configuration: `dreambooth.base_model` or `dreambooth.base_vae`.
        path: the file.
    """
    what, remedy = _kind(key, path)
    return InputError(f"{key} {path}: {what}; {remedy}.")


def _kind(key: str, path: Path) -> tuple[str, str]:
    if path.suffix not in ENDINGS:
        return "it is a file", "name the folder of a model in diffusers' format"
    shapes: dict[str, Shape] = {}
    try:
        weight_files.len_bytes(path)
        if path.suffix == ".safetensors":
            shapes = dict(weight_files.header(path))
    except UnusableFileError as error:
        return error.what, error.remedy or "copy the file again"
    if path.suffix == ".safetensors":
        other = _other_vae(shapes) if key.endswith("base_vae") else _other_base(shapes, path)
        if other:
            return other
    vae = ', subfolder="vae"' if key.endswith("base_vae") else ""
    return (
        "it is a checkpoint in one file",
        f"convert it once with {base_files.conversion(path, key)} and name the folder "
        f"{base_files.converted(path)} (where no hub can be reached, write `, config="
        f'"FOLDER"{vae}` after the file\'s name, with the folder of any Stable Diffusion 1.5 model '
        "in diffusers' format)",
    )


def _other_base(shapes: dict[str, Shape], path: Path) -> tuple[str, str] | None:
    """What a file holds that is no Stable Diffusion 1.5, and what to do; none if it is one."""
    whole = (
        "name the folder of the whole model, which has a model_index.json, or get the file that "
        f"holds the whole model and convert it with {base_files.conversion(path, 'base_model')}"
    )
    if any("lora" in name for name in shapes):
        return "it is a LoRA adapter, not a base model", "name the base model it was made for"
    if any(name.startswith(_LDM_SDXL) for name in shapes):
        return "it is a Stable Diffusion XL checkpoint", _FAMILY
    first = shapes.get(f"{_LDM_UNET}input_blocks.0.0.weight")
    if first is None:
        if "conv_in.weight" in shapes and any(name.startswith("time_embed") for name in shapes):
            return "it holds a UNet alone, without text encoder and autoencoder", whole
        if any(name.startswith(("encoder.conv_in", "decoder.conv_in")) for name in shapes):
            return "it holds an autoencoder alone", "name it as dreambooth.base_vae"
        return "it holds no Stable Diffusion model", _FAMILY
    if len(first) == 4 and first[1] == 9:
        return (
            "its UNet takes 9 channels, so it is an inpainting model",
            "choose one that makes whole images",
        )
    for prefix, name in ((_LDM_TEXT, "text encoder"), (_LDM_VAE, "autoencoder")):
        if not any(each.startswith(prefix) for each in shapes):
            return f"it holds no {name}", whole
    return None


def _other_vae(shapes: dict[str, Shape]) -> tuple[str, str] | None:
    if any(name.startswith((_LDM_VAE, "encoder.conv_in")) for name in shapes):
        return None
    return "it holds no autoencoder", "name an AutoencoderKL"
