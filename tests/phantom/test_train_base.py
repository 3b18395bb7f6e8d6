"""Training of the embedded base, in miniature: it resumes to the same bits and loads in diffusers."""

import csv
import json

import pytest
import torch
from diffusers import StableDiffusionPipeline

from synth_pipeline.phantom import base_parts, train_base

TINY = {"images": 16, "autoencoder_steps": 3, "denoiser_steps": 5, "seed": 1}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Few pictures to a chunk and a checkpoint after every second step."""
    monkeypatch.setattr(base_parts, "_CHUNK", 16)
    monkeypatch.setattr(train_base, "_CHECKPOINT_EVERY", 2)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, landmark_model):
    """The pipeline's folder after an undisturbed training."""
    place = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_parts, "_CHUNK", 16)
        train_base.train_base(
            place / "base", work_dir=place / "work", mesh_path=landmark_model, **TINY
        )
    return place / "base"


@pytest.mark.parametrize("stop", [("autoencoder", 3), ("denoiser", 3)])
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, landmark_model, uninterrupted, stop):
    def until(done: int, total: int, note: str = "") -> None:
        if note.startswith(stop[0]) and done == stop[1]:
            raise KeyboardInterrupt

    out_dir, options = tmp_path / "base", {"work_dir": tmp_path / "work", **TINY}
    with pytest.raises(KeyboardInterrupt):
        train_base.train_base(out_dir, mesh_path=landmark_model, progress=until, **options)
    assert not out_dir.exists()
    train_base.train_base(out_dir, mesh_path=landmark_model, **options)
    for name in ("vae", "unet", "text_encoder"):
        for expected in (uninterrupted / name).glob("*.safetensors"):
            assert (out_dir / name / expected.name).read_bytes() == expected.read_bytes(), name


def test_the_folder_is_a_stable_diffusion_pipeline(uninterrupted):
    pipeline = StableDiffusionPipeline.from_pretrained(uninterrupted, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("photo of a zorblax child", num_inference_steps=2).images[0]
    assert image.size == (base_parts.SIZE_PX, base_parts.SIZE_PX)


def test_it_holds_no_pickle_and_keeps_its_losses_and_card(uninterrupted):
    kinds = {path.suffix for path in uninterrupted.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".txt", ".md", ".csv", ".safetensors"}
    with (uninterrupted / "losses.csv").open(newline="") as stream:
        trainings = {row["training"] for row in csv.DictReader(stream)}
    assert trainings == {"autoencoder", "denoiser"}
    assert json.loads((uninterrupted / "training.json").read_text())["images"] == 16
    assert "no pixel of it comes from a person" in (uninterrupted / "README.md").read_text()
