"""Check the files of a base model's folder, without torch and before anything is written.

What people have on their disks is half downloaded, of another family, or in another format. Every
such folder is refused here, in one sentence that names the file and the way out.
"""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_pipeline import weight_files
from synth_pipeline.errors import InputError
from synth_pipeline.weight_files import PICKLED, UnusableFileError, Weights

#: The networks of Stable Diffusion 1.5 and 2: their class, and what their weights are called.
NETWORKS = {
    "unet": ("UNet2DConditionModel", "diffusion_pytorch_model"),
    "vae": ("AutoencoderKL", "diffusion_pytorch_model"),
    "text_encoder": ("CLIPTextModel", "model"),
}
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_PREDICTIONS = ("epsilon", "v_prediction")
#: Settings of a UNet that wants more than a text and a time; each tells of another family.
_FURTHER_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
)


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder, and how a message speaks of it.

    Attributes:
        key: of the configuration that names it.
        name: as it is configured.
        path: where it lies.
        copy_again: the remedy where a file is damaged.
    """

    key: str
    name: str
    path: Path
    copy_again: str

    def error(self, what: str, remedy: str | None = None) -> InputError:
        """What is wrong with it, and how to fix it, as one sentence."""
        return InputError(f"{self.key} {self.name}: {what}; {remedy or self.copy_again}.")

    def read_json(self, *place: str) -> dict[str, Any]:
        """An object from one of its JSON files."""
        try:
            return weight_files.read_json(self.path.joinpath(*place))
        except UnusableFileError as error:
            raise self.error(error.what, error.remedy) from None

    def weights(self, folder: Path, stem: str) -> Weights:
        """The weights of one of its networks, their headers checked."""
        try:
            found = weight_files.find(folder, stem)
        except UnusableFileError as error:
            raise self.error(error.what, error.remedy) from None
        if found is None:
            raise self._no_weights(folder, stem)
        return found

    def _no_weights(self, folder: Path, stem: str) -> InputError:
        wanted = f"{folder.name}/{stem}.safetensors"
        if not folder.is_dir():
            return self.error(f"the folder {folder.name} is missing")
        names = sorted(path.name for path in folder.iterdir())
        if any(name.endswith(PICKLED) for name in names):
            return self.error(
                f"{folder.name} holds pickled weights only, which can run code when they are "
                "loaded",
                f"convert them once with {conversion(self.path, self.key)} and name the new folder",
            )
        others = [name for name in names if name.endswith(".safetensors")]
        return self.error(
            f"{wanted} is missing"
            + (f" (there is {others[0]}, which is not loaded)" if others else "")
        )


def conversion(source: Path, key: str) -> str:
    """The command that writes a model in another format as a folder that can be loaded.

    Args:
        source: a folder with pickled weights, or a checkpoint in one file.
        key: of the configuration: a whole pipeline or an autoencoder.
    """
    kind = "AutoencoderKL" if key.endswith("base_vae") else "StableDiffusionPipeline"
    read = "from_single_file" if source.is_file() else "from_pretrained"
    more = ", safety_checker=None" if kind == "StableDiffusionPipeline" else ""
    # Python's strings in double quotes, so that the shell's can be single ones.
    here, there = (
        json.dumps(str(path), ensure_ascii=False) for path in (source, converted(source))
    )
    code = f"from diffusers import {kind} as M; M.{read}({here}{more}).save_pretrained({there})"
    return f"`{shlex.quote(sys.executable)} -c {shlex.quote(code)}`"


def converted(source: Path) -> Path:
    """Where the conversion writes."""
    return source.with_name(f"{source.stem if source.is_file() else source.name}-diffusers")


def check_pipeline(folder: ModelFolder, vae: ModelFolder | None) -> None:
    """Make sure that a folder holds a whole pipeline of the Stable Diffusion 1.5 family.

    Args:
        folder: in diffusers' format.
        vae: another autoencoder that is used instead of the folder's own.

    Raises:
        InputError: a file is missing, damaged, or of another kind of model.
    """
    index = folder.read_json("model_index.json")
    kind = index.get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise folder.error(
            f"it is a {kind}, not a StableDiffusionPipeline",
            "choose a base of the Stable Diffusion 1.5 family",
        )
    own = {part: made for part, (made, _) in NETWORKS.items() if part != "vae" or vae is None}
    for part, wanted in own.items():
        _check_entry(folder, index, part, (wanted,))
    _check_entry(folder, index, "tokenizer", _TOKENIZERS)
    _check_entry(folder, index, "scheduler", None)
    configs = {part: folder.read_json(part, "config.json") for part in own}
    for part in own:
        _check_not_quantised(folder, configs[part])
        folder.weights(folder.path / part, NETWORKS[part][1])
    _check_scheduler(folder)
    _check_widths(folder, configs["unet"], configs["text_encoder"])
    _check_tokenizer(folder, configs["text_encoder"])
    if vae is not None:
        configs["vae"] = check_vae(vae)
    _check_latents(folder, configs["unet"], vae or folder, configs["vae"])


def check_vae(vae: ModelFolder) -> dict[str, Any]:
    """Make sure that a folder holds an autoencoder; returns its configuration.

    Raises:
        InputError: a file is missing, damaged, or of another kind of model.
    """
    config = vae.read_json("config.json")
    wanted, stem = NETWORKS["vae"]
    if config.get("_class_name") != wanted:
        raise vae.error(f"it is a {config.get('_class_name')}, not an {wanted}", "choose another")
    _check_not_quantised(vae, config)
    vae.weights(vae.path, stem)
    return config


def _check_entry(
    folder: ModelFolder, index: Mapping[str, Any], part: str, wanted: tuple[str, ...] | None
) -> None:
    entry = index.get(part)
    made = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if not isinstance(made, str):
        raise folder.error(f"its model_index.json names no {part}")
    if wanted and made not in wanted:
        raise folder.error(
            f"its {part} is a {made}, not a {wanted[0]}",
            "choose a base of the Stable Diffusion 1.5 family",
        )
    if not (folder.path / part).is_dir():
        raise folder.error(f"the folder {part} is missing")


def _check_not_quantised(folder: ModelFolder, config: Mapping[str, Any]) -> None:
    if config.get("quantization_config"):
        raise folder.error("its weights are quantised", "use the weights in float16 or float32")


def _check_scheduler(folder: ModelFolder) -> None:
    config = folder.read_json("scheduler", "scheduler_config.json")
    predicted = config.get("prediction_type", "epsilon")
    if predicted not in _PREDICTIONS:
        raise folder.error(
            f"scheduler/scheduler_config.json states the prediction type {predicted!r}",
            f"choose a base that predicts {' or '.join(_PREDICTIONS)}",
        )


def _check_widths(
    folder: ModelFolder, unet: Mapping[str, Any], text_encoder: Mapping[str, Any]
) -> None:
    further = [name for name in _FURTHER_INPUTS if unet.get(name) is not None]
    if further:
        raise folder.error(
            f"its UNet is of another family (unet/config.json states {further[0]})",
            "choose a base of the Stable Diffusion 1.5 family",
        )
    if not isinstance(unet.get("sample_size"), int):
        raise folder.error("unet/config.json states no sample_size as a number")
    read, given = unet.get("cross_attention_dim"), text_encoder.get("hidden_size")
    if read != given:
        raise folder.error(
            f"its UNet reads texts of width {read} and its text encoder writes {given}",
            "take both from the same model",
        )


def _check_tokenizer(folder: ModelFolder, text_encoder: Mapping[str, Any]) -> None:
    place = folder.path / "tokenizer"
    if weight_files.is_there(place / "tokenizer.json"):
        model = folder.read_json("tokenizer", "tokenizer.json").get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocabulary, dict):
            vocabulary = {}
    else:
        vocabulary = folder.read_json("tokenizer", "vocab.json")
        try:
            weight_files.len_bytes(place / "merges.txt")
        except UnusableFileError as error:
            raise folder.error(error.what, error.remedy) from None
    known = text_encoder.get("vocab_size")
    ids = [number for number in vocabulary.values() if isinstance(number, int)]
    if not ids or not isinstance(known, int) or max(ids) >= known:
        raise folder.error(
            f"its tokenizer has {len(ids):,} words and its text encoder knows {known}",
            "take both from the same model",
        )
    longest = folder.read_json("tokenizer", "tokenizer_config.json").get("model_max_length")
    places = text_encoder.get("max_position_embeddings")
    if not isinstance(longest, int) or not isinstance(places, int) or longest > places:
        raise folder.error(
            f"tokenizer/tokenizer_config.json states a model_max_length of {longest} and the text "
            f"encoder reads {places} tokens",
            "take both from the same model",
        )


def _check_latents(
    folder: ModelFolder, unet: Mapping[str, Any], vae: ModelFolder, autoencoder: Mapping[str, Any]
) -> None:
    taken, given = unet.get("in_channels"), autoencoder.get("latent_channels")
    made = unet.get("out_channels")
    if taken == given == made:
        return
    if taken == 9 or taken == 2 * (given or 0) + 1:
        raise folder.error(
            f"by unet/config.json its UNet takes {taken} channels, as inpainting models do",
            "choose a model that makes whole images",
        )
    raise (vae if vae is not folder else folder).error(
        f"the autoencoder has latents of {given} channels, and the UNet takes {taken} and gives "
        f"{made}",
        "take both from the same family",
    )
