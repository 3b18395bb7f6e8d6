"""The base model of DreamBooth: embedded, a local folder, or a model hub's id."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from synth_pipeline import base_files, model_hub, single_file, weight_files
from synth_pipeline.base_files import ModelFolder
from synth_pipeline.config import Precision
from synth_pipeline.errors import InputError
from synth_pipeline.places import from_home
from synth_pipeline.store import canonical_json, file_sha256

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "assets" / "phantom-base"
# Pickled weights run code when they are loaded, so only these kinds of files are ever read.
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
#: What many repositories hold beside: a classifier that we do not use, the same weights from
#: before averaging, and the same in half precision. Tens of gigabytes, together.
_NOT_WANTED = ("safety_checker/*", "*.non_ema.*")
_VARIANTS = tuple(f"*.{name}{end}*" for name in weight_files.VARIANTS for end in ".-")
_PIPELINE, _AUTOENCODER = "model_index.json", "config.json"


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
    """Find a base model and check its files; loads no weights.

    Whether its weights fit its networks is checked by `base_networks.check`, which takes seconds.

    Args:
        base_model: `embedded`, a folder, or a hub id such as `owner/name`.
        revision: of the hub id: a branch, a tag or a commit.
        base_vae: folder or hub id of another autoencoder.
        precision: of the arithmetic.

    Raises:
        InputError: it is not there, cannot be downloaded, is not whole, or is of another kind.
    """
    found, commit = _locate("dreambooth.base_model", base_model, revision, _PIPELINE)
    vae, vae_commit = (
        _locate("dreambooth.base_vae", base_vae, None, _AUTOENCODER)
        if base_vae is not None
        else (None, None)
    )
    base_files.check_pipeline(found, vae)
    identity = commit or _folder_digest(found)
    if vae is None:
        return BaseModel(found.path, identity, precision=precision)
    identity = f"{identity}+vae:{vae_commit or _folder_digest(vae)}"
    return BaseModel(found.path, identity, vae.path, precision)


def check_networks(base: BaseModel, base_model: str, base_vae: str | None = None) -> None:
    """Make sure that the weights of a base model are those of its networks; imports torch.

    Args:
        base: as `resolve_base` found it.
        base_model: how it was named.
        base_vae: how the other autoencoder was named.

    Raises:
        InputError: they are of another network, or a part cannot be read.
    """
    from synth_pipeline import base_networks

    def folder(key: str, name: str, path: Path) -> ModelFolder:
        return ModelFolder(f"dreambooth.{key}", name, path, _copy_again(name, path))

    vae = folder("base_vae", base_vae or "", base.vae_folder) if base.vae_folder else None
    base_networks.check(folder("base_model", base_model, base.folder), vae)


def _copy_again(name: str, folder: Path) -> str:
    if name == EMBEDDED:
        return "install synth-pipeline again, or make one: `synth-pipeline phantom train-base`"
    if Path(from_home(name)).is_dir():
        return f"copy the model into {folder} again"
    return f"delete {folder}, so that it is downloaded again"


def _locate(
    key: str, name: str, revision: str | None, marker: str
) -> tuple[ModelFolder, str | None]:
    """The folder of a model; of a hub's also its id with the commit."""
    folder = EMBEDDED_FOLDER if name == EMBEDDED else Path(from_home(name))
    if name == EMBEDDED and marker == _AUTOENCODER:
        folder /= "vae"
    if folder.is_file():
        raise single_file.refusal(key, folder)
    if folder.is_dir() or name == EMBEDDED:
        model = ModelFolder(key, name, folder.absolute(), _copy_again(name, folder))
        if not weight_files.is_there(folder / marker):
            raise _no_marker(model, marker)
        return model, None
    if name.count("/") != 1 or name.startswith(("/", ".", "~")) or "\\" in name:
        raise InputError(
            f"{key} {name}: there is no such folder here, and it is no hub id like owner/name; "
            "check the path."
        )
    folder = _from_hub(key, name, revision, marker)
    model = ModelFolder(key, name, folder, _copy_again(name, folder))
    # The snapshot's folder is called after the commit.
    return model, f"{name}@{folder.name}"


def _no_marker(model: ModelFolder, marker: str) -> InputError:
    if model.name == EMBEDDED:
        return model.error(f"it is missing from {model.path}")
    files = [path for path in sorted(model.path.iterdir()) if path.suffix in single_file.ENDINGS]
    inside = [path.parent.name for path in sorted(model.path.glob(f"*/{marker}"))]
    if marker == _PIPELINE and len(files) == 1 and not (model.path / "config.json").exists():
        return single_file.refusal(model.key, files[0])
    if marker == _AUTOENCODER and "vae" in inside:
        return model.error("it is a whole pipeline", f"name its folder {model.path / 'vae'}")
    if marker == _PIPELINE and (model.path.parent / marker).exists():
        return model.error("it is one part of a model", f"name the folder {model.path.parent}")
    return model.error(f"the folder has no {marker}", "name a folder in diffusers' format")


def files_wanted(marker: str, variant: str | None = None) -> dict[str, list[str]]:
    """Which files of a hub's repository are downloaded, as patterns.

    Args:
        marker: `model_index.json` for a pipeline, whose weights lie in its parts' folders;
            `config.json` for an autoencoder, whose weights lie beside it.
        variant: of the weights; none is full precision.
    """
    # `*` stands for slashes too.
    within = "*/" if marker == _PIPELINE else ""
    weights = f"{within}*.{variant}*.safetensors" if variant else f"{within}*.safetensors"
    return {
        "allow_patterns": ["*.json", "*/*.txt", "*/*.model", weights],
        "ignore_patterns": [*_NOT_WANTED, *(() if variant else _VARIANTS)],
    }


def _from_hub(key: str, name: str, revision: str | None, marker: str) -> Path:
    """The snapshot of a repository; in half precision where it has nothing else."""
    folder, commit = model_hub.download(name, revision, files_wanted(marker), key)
    for variant in weight_files.VARIANTS:
        parts = [folder / part for part in base_files.NETWORKS] if marker == _PIPELINE else [folder]
        if all(any(part.glob("*.safetensors")) for part in parts if part.is_dir()):
            break
        folder, _ = model_hub.download(name, commit, files_wanted(marker, variant), key)
    return folder


def _folder_digest(model: ModelFolder) -> str:
    """A hash over the names and contents of the files that are loaded."""
    folder = model.path
    files = sorted(
        {path for pattern in _PATTERNS for path in folder.rglob(pattern) if path.is_file()}
    )
    try:
        pairs = [[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files]
    except OSError as error:
        raise model.error(f"{error.filename} cannot be read ({error.strerror})") from None
    return "sha256:" + hashlib.sha256(canonical_json(pairs)).hexdigest()
