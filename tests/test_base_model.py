"""Finding a base model: what is refused, in one sentence, before anything heavy is loaded."""

import json
import shutil
import subprocess
import sys

import pytest
from huggingface_hub.utils import filter_repo_objects

from synth_pipeline.base_model import files_wanted, resolve_base
from synth_pipeline.errors import InputError


@pytest.fixture
def copied(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base")


def test_identity_is_the_content(copied, tiny_base):
    assert resolve_base(str(copied)).identity == resolve_base(str(tiny_base)).identity
    (copied / "scheduler" / "scheduler_config.json").write_text("{}")
    assert resolve_base(str(copied)).identity != resolve_base(str(tiny_base)).identity


def test_another_vae_changes_the_identity(copied, tiny_base):
    with_vae = resolve_base(str(copied), base_vae=str(tiny_base / "vae"))
    assert with_vae.vae_folder == tiny_base / "vae"
    assert with_vae.identity != resolve_base(str(copied)).identity


def test_embedded_base_is_there():
    base = resolve_base("embedded")
    total_bytes = sum(p.stat().st_size for p in base.folder.rglob("*") if p.is_file())
    assert total_bytes <= 25 * 2**20


def _not_a_pipeline(folder):
    (folder / "model_index.json").unlink()


def _another_kind(folder):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))


def _broken_index(folder):
    (folder / "model_index.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_not_a_pipeline, "model_index.json"),
        (_another_kind, "FluxPipeline"),
        (_broken_index, "model_index.json"),
    ],
)
def test_unusable_folder_is_one_sentence(copied, damage, complaint):
    damage(copied)
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        resolve_base(str(copied))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "nothing", "a/b/c", "./here", "~nobody-is-called-so/x"]
)
def test_missing_folder_is_one_sentence(name):
    with pytest.raises(InputError, match=f"{name}: there is no such folder here"):
        resolve_base(name)


def test_hub_that_cannot_be_reached_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"^[^\n]*neither cached here[^\n]*$"):
        resolve_base("nobody/nothing-here")


def test_what_is_downloaded_is_what_is_loaded():
    """Files as the repositories of Stable Diffusion's relatives hold them."""
    parts = ["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"]
    wanted = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
        *(f"{part}.safetensors" for part in parts),
    ]
    beside = [
        "Realistic.safetensors",
        "README.md",
        "safety_checker/model.safetensors",
        *(f"{part}.fp16.safetensors" for part in parts),
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        *(f"{part}.bin" for part in parts),
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    ]
    patterns = files_wanted("model_index.json")
    assert sorted(filter_repo_objects([*beside, *wanted], **patterns)) == sorted(wanted)
    patterns = files_wanted("config.json")
    autoencoder = ["config.json", "diffusion_pytorch_model.safetensors"]
    pickled = ["diffusion_pytorch_model.bin"]
    assert list(filter_repo_objects([*autoencoder, *pickled], **patterns)) == autoencoder


def test_planning_needs_no_torch():
    code = (
        "import sys, synth_pipeline.base_model, synth_pipeline.study; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
