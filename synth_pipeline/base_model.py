"""The base model of DreamBooth: embedded, a local folder, or a model hub's id."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from synth_pipeline.config import Precision
from synth_pipeline.errors import InputError
from synth_pipeline.store import canonical_json, file_sha256

EMBEDDED = "embedded"
_EMBEDDED_FOLDER = Path(__file__).parent / "assets" / "phantom-base"
# Pickled weights run code when they are loaded, so only these kinds of files are ever read.
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
#: What many repositories hold beside: the same weights as one file, in half precision, or from
#: before averaging; and a classifier that we do not use. Tens of gigabytes, together.
_NOT_WANTED = ("safety_checker/*", "*.fp16.*", "*.non_ema.*")


@dataclass(frozen=True)
class BaseModel:
    """A base model that lies on this machine.

    Attributes:
        folder: in the format of diffusers' `StableDiffusionPipeline`.
        vae_folder: another autoencoder to use instead of the folder's own.
        precision: of the arithmetic; see `dreambooth.precision`.
        identity: hash of the weights and settings, or the hub's ids with their commits; part of
            content keys.
    """

    folder: Path
    identity: str
    vae_folder: Path | None = None
    precision: Precision = "auto"


def resolve_base(
    base_model: str,
    *,
    revision: str | None = None,
    base_vae: str | None = None,
    precision: Precision = "auto",
) -> BaseModel:
    """Find a base model and make sure that it can be used; loads no weights.

    Args:
        base_model: `embedded`, a folder, or a hub id such as `owner/name`.
        revision: of the hub id: a branch, a tag or a commit.
        base_vae: folder or hub id of another autoencoder.
        precision: of the arithmetic.

    Raises:
        InputError: it is not there, cannot be downloaded, or is of another kind.
    """
    folder, identity = _locate(base_model, revision, "model_index.json")
    index = _read_json(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise InputError(
            f"dreambooth.base_model {base_model} is a {kind}, not a StableDiffusionPipeline; "
            "choose a base of the Stable Diffusion 1.5 family."
        )
    for part in ("unet", "text_encoder", *(() if base_vae else ("vae",))):
        if not list((folder / part).glob("*.safetensors")):
            raise InputError(
                f"dreambooth.base_model {base_model} has no safetensors in {part}/; pickled "
                "weights are not loaded, because they can run code: convert them first."
            )
    if base_vae is None:
        return BaseModel(folder, identity, precision=precision)
    vae_folder, vae_identity = _locate(base_vae, None, "config.json")
    return BaseModel(folder, f"{identity}+vae:{vae_identity}", vae_folder, precision)


def _locate(name: str, revision: str | None, marker: str) -> tuple[Path, str]:
    """The folder of a model and its identity."""
    if name == EMBEDDED:
        if not (_EMBEDDED_FOLDER / marker).is_file():
            raise InputError(
                f"The embedded base model is missing from {_EMBEDDED_FOLDER}; "
                "install synth-pipeline again, or make one: `synth-pipeline phantom train-base`."
            )
        return _EMBEDDED_FOLDER, _folder_digest(_EMBEDDED_FOLDER)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / marker).is_file():
            raise InputError(
                f"The folder {folder} has no {marker}; name a folder in diffusers' format."
            )
        return folder.absolute(), _folder_digest(folder)
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise InputError(
            f"The model {name} is neither a folder here nor a hub id like owner/name; "
            "mend dreambooth.base_model or dreambooth.base_vae."
        )
    return _from_hub(name, revision, marker)


def files_wanted(marker: str) -> dict[str, list[str]]:
    """Which files of a hub's repository are downloaded, as patterns.

    Args:
        marker: `model_index.json` for a pipeline, whose weights lie in its parts' folders;
            `config.json` for an autoencoder, whose weights lie beside it.
    """
    # `*` stands for slashes too.
    weights = "*/*.safetensors" if marker == "model_index.json" else "*.safetensors"
    return {
        "allow_patterns": ["*.json", "*/*.txt", "*/*.model", weights],
        "ignore_patterns": list(_NOT_WANTED),
    }


def _from_hub(name: str, revision: str | None, marker: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    missing = InputError(
        f"The model {name} is neither cached here nor can it be downloaded; check the id and the "
        "network, or copy it to this machine and name its folder."
    )
    try:
        folder = Path(snapshot_download(name, revision=revision, **files_wanted(marker)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError):
        raise missing from None
    # The snapshot's folder is called after the commit.
    return folder, f"{name}@{folder.name}"


def _folder_digest(folder: Path) -> str:
    """A hash over the names and contents of the files that are loaded."""
    files = sorted({path for pattern in _PATTERNS for path in folder.rglob(pattern)})
    pairs = [[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files]
    return "sha256:" + hashlib.sha256(canonical_json(pairs)).hexdigest()


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise InputError(f"{path} is no readable JSON; copy the base model again.") from None
