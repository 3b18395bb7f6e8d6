"""Finding a base model: what is refused, in one sentence, before anything heavy is loaded."""

import json
import shutil
import subprocess
import sys

import pytest

from synth_pipeline.base_model import resolve_base
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


def _pickled(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_not_a_pipeline, "model_index.json"),
        (_another_kind, "FluxPipeline"),
        (_broken_index, "model_index.json"),
        (_pickled, "safetensors"),
    ],
)
def test_unusable_folder_is_one_sentence(copied, damage, complaint):
    damage(copied)
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        resolve_base(str(copied))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "nothing", "a/b/c", "./here"])
def test_missing_folder_is_one_sentence(name):
    with pytest.raises(InputError, match="neither a folder here nor a hub id"):
        resolve_base(name)


def test_hub_that_cannot_be_reached_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"^[^\n]*neither cached here[^\n]*$"):
        resolve_base("nobody/nothing-here")


def test_planning_needs_no_torch():
    code = (
        "import sys, synth_pipeline.base_model, synth_pipeline.study; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
