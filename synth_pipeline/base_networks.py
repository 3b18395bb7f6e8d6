"""Check that a base model's weights fit its networks, by name and shape, without loading them.

This takes the seconds in which torch and diffusers are imported, so a base model that has been
learned from before is not asked again.
"""

import re
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from synth_pipeline.base_files import NETWORKS, ModelFolder
from synth_pipeline.weight_files import Shape, Weights, by

# Attention of autoencoders as it was called before diffusers 0.15; diffusers translates it too.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(?<=\.)({'|'.join(_OLD_NAMES)})(?=\.(weight|bias)$)")
# What a text encoder's file holds beside: a buffer of older versions, and CLIP's other half.
_BESIDE = ("position_ids", "visual_projection", "text_projection", "logit_scale", "vision_model")


def check(folder: ModelFolder, vae: ModelFolder | None = None) -> None:
    """Make sure that a base model, whose files `base_files` has checked, can be loaded.

    Args:
        folder: the whole pipeline.
        vae: another autoencoder that is used instead of the folder's own.

    Raises:
        InputError: the weights are of another network, or a part cannot be read.
    """
    transformers_logging.set_verbosity_error()
    _check_network(folder, "unet", UNet2DConditionModel.from_config)
    _check_network(folder, "text_encoder", lambda config: CLIPTextModel(CLIPTextConfig(**config)))
    _check_network(vae or folder, "" if vae else "vae", AutoencoderKL.from_config)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder.path / "tokenizer", local_files_only=True)
        tokenizer("photo of a child", padding="max_length", truncation=True)
    except Exception as error:
        # The library's errors have no common base but this.
        raise folder.error(f"its tokenizer cannot be read ({type(error).__name__})") from None
    kind = folder.read_json("scheduler", "scheduler_config.json").get("_class_name")
    try:
        getattr(diffusers, str(kind)).from_pretrained(folder.path / "scheduler")
    except Exception as error:
        raise folder.error(
            f"its scheduler {kind} cannot be read ({type(error).__name__})"
        ) from None


def _check_network(
    folder: ModelFolder, part: str, build: Callable[[dict[str, Any]], torch.nn.Module]
) -> None:
    config = folder.read_json(part, "config.json")
    name = f"{part}/config.json" if part else "config.json"
    try:
        # On this device tensors have shapes and no content.
        with torch.device("meta"):
            network = build(config)
    except Exception as error:
        raise folder.error(f"{name} does not describe a network ({type(error).__name__})") from None
    weights = folder.weights(folder.path / part, NETWORKS[part or "vae"][1])
    own = {_today(key): tuple(value.shape) for key, value in network.state_dict().items()}
    found = {_today(key): shape for key, shape in weights.shapes.items()}
    if wrong := _difference(own, found, weights, name):
        raise folder.error(wrong, "take the weights and the configuration from the same model")


def _difference(
    own: dict[str, Shape], found: dict[str, Shape], weights: Weights, config: str
) -> str | None:
    """What tells a file's weights from a network's; none if they fit."""
    of_one = weights.files[0]
    place = f"{of_one.parent.name}/{of_one.name}"
    for key, shape in own.items():
        if key in found and found[key] != shape:
            return f"in {place} {key} is {by(found[key])}, and by {config} it is {by(shape)}"
    missing = [key for key in own if key not in found]
    if missing:
        return f"{place} lacks {len(missing)} of the {len(own)} weights, the first {missing[0]}"
    beyond = [key for key in found if key not in own and not any(b in key for b in _BESIDE)]
    if beyond:
        return (
            f"{place} holds {len(beyond)} weights that {config} knows nothing of, the first "
            f"{beyond[0]}"
        )
    return None


def _today(name: str) -> str:
    """A weight's name as the libraries write it today."""
    name = _OLD_NAME.sub(lambda old: _OLD_NAMES[old.group(1)], name)
    return name.removeprefix("text_model.")
