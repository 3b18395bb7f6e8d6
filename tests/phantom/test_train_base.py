"""Training of the embedded base in miniature: it resumes to the same bits; diffusers loads it."""

import csv
import json

import pytest
import torch
from diffusers import StableDiffusionPipeline

from synth_pipeline.phantom import base_parts, resumable, train_base

TINY = {
    "images": 16,
    "autoencoder_steps": 3,
    "finishing_steps": 3,
    "sharpening_steps": 3,
    "deepening_steps": 3,
    "denoiser_steps": 5,
    "seed": 1,
}


@pytest.fixture(scope="module", autouse=True)
def small():
    """Few pictures to a chunk, a checkpoint after every second step, and one thread.

    One thread, because steps this small on cores that others use spend their time in waiting.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_parts, "_CHUNK", 16)
        patch.setattr(resumable, "_CHECKPOINT_EVERY", 2)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, landmark_model, small):
    """The pipeline's folder after an undisturbed training."""
    place = tmp_path_factory.mktemp("base")
    train_base.train_base(place / "base", work_dir=place / "work", mesh_path=landmark_model, **TINY)
    return place / "base"


@pytest.mark.parametrize(
    "stop",
    [("autoencoder", 3), ("finish", 2), ("sharpening", 3), ("deepening", 2), ("denoiser", 3)],
)
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
    pipeline = StableDiffusionPipeline.from_pretrained(uninterrupted, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("photo of a zorblax child", num_inference_steps=2).images[0]
    assert image.size == (base_parts.SIZE_PX, base_parts.SIZE_PX)


def test_its_encoder_adds_no_noise(uninterrupted):
    """The denoiser knows the latents' means; what is drawn around them would be noise to it."""
    pipeline = StableDiffusionPipeline.from_pretrained(uninterrupted, dtype=torch.float32)
    picture = torch.rand(1, 3, base_parts.SIZE_PX, base_parts.SIZE_PX) * 2 - 1
    with torch.no_grad():
        posterior = pipeline.vae.encode(picture).latent_dist
    assert posterior.std.max() < 1e-5
    assert torch.isfinite(posterior.sample()).all()


def test_it_holds_no_pickle_and_keeps_its_losses_and_card(uninterrupted):
    kinds = {path.suffix for path in uninterrupted.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".txt", ".md", ".csv", ".safetensors"}
    with (uninterrupted / "losses.csv").open(newline="") as stream:
        trainings = {row["training"] for row in csv.DictReader(stream)}
    assert trainings == {"autoencoder", "finishing", "sharpening", "deepening", "denoiser"}
    assert json.loads((uninterrupted / "training.json").read_text())["images"] == 16
    assert "no pixel of it comes from a person" in (uninterrupted / "README.md").read_text()


def test_the_same_captions_give_the_same_vocabulary(tmp_path):
    captions = [
        "photo of a child, light skin, narrow nose",
        "photo of a child, tan skin, wide nose",
    ]
    first = base_parts.make_tokenizer(captions, tmp_path / "one").get_vocab()
    assert base_parts.make_tokenizer(captions, tmp_path / "two").get_vocab() == first
    # One that is there is kept, whatever the captions: a training goes on with its old numbers.
    assert base_parts.make_tokenizer(["other words"], tmp_path / "one").get_vocab() == first


def test_a_deepened_autoencoder_is_the_same_function():
    shallow = base_parts.new_autoencoder(3).eval()
    deep = base_parts.deepened(shallow, 3).eval()
    picture = torch.rand(1, 3, base_parts.SIZE_PX, base_parts.SIZE_PX) * 2 - 1
    with torch.no_grad():
        given_back = [m.decode(m.encode(picture).latent_dist.mean).sample for m in (shallow, deep)]
    torch.testing.assert_close(given_back[1], given_back[0])
    assert sum(p.numel() for p in deep.parameters()) > sum(p.numel() for p in shallow.parameters())
