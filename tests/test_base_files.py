"""Base models as people have them: each that cannot be used is refused in one sentence."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from synth_pipeline.base_model import check_networks, resolve_base
from synth_pipeline.config import StudyConfig
from synth_pipeline.errors import InputError
from synth_pipeline.study import Study
from tests.one_file import checkpoint

UNET = "unet/diffusion_pytorch_model.safetensors"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438167540\n"


@pytest.fixture
def copied(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base")


def refused(place: Path | str, **options: str) -> str:
    """The one sentence with which a base model is refused, by either of the two checks."""
    with pytest.raises(InputError, match=r"^[^\n]*\.$") as caught:
        check_networks(resolve_base(str(place), **options), str(place), options.get("base_vae"))
    message = str(caught.value)
    assert message.startswith("dreambooth.base_")
    assert "; " in message, "no remedy"
    return message


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path: Path, to: float = 0.5) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * to)])


FILES = [
    UNET,
    "text_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "model_index.json",
]


@pytest.mark.parametrize("file", FILES)
def test_whatever_happened_to_a_file_it_is_named(copied, file):
    path = copied / file
    whole = path.read_bytes()
    path.unlink()
    told = refused(copied)
    assert Path(file).name in told or "vocab.json" in told
    for content in (b"", whole[: len(whole) // 2], whole[:5], LFS.encode(), b"<html>Log in</html>"):
        path.write_bytes(content)
        assert Path(file).name in refused(copied)
    assert "git lfs pull" in _with(path, LFS.encode(), copied)
    path.unlink()
    path.symlink_to(copied / "blobs" / "gone")
    assert "a link to nothing" in refused(copied)


def _with(path: Path, content: bytes, folder: Path) -> str:
    path.write_bytes(content)
    return refused(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copied, part):
    shutil.rmtree(copied / part)
    assert f"the folder {part} is missing" in refused(copied)
    edit(copied / "model_index.json", **{part: [None, None]})
    assert f"names no {part}" in refused(copied)


def test_bytes_behind_the_end_are_damage(copied):
    with (copied / UNET).open("ab") as stream:
        stream.write(b"more")
    assert "damaged" in refused(copied)


def test_a_file_that_never_ends_is_not_waited_for(copied):
    (copied / UNET).unlink()
    os.mkfifo(copied / UNET)
    assert "is not a file" in refused(copied)


def test_vocabulary_of_two_files_wants_both(copied):
    """As tokenizers were written before tokenizer.json, and most repositories hold them."""
    model = json.loads((copied / "tokenizer" / "tokenizer.json").read_text())["model"]
    (copied / "tokenizer" / "tokenizer.json").unlink()
    (copied / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"]))
    assert "merges.txt is missing" in refused(copied)
    pairs = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (copied / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    check_networks(resolve_base(str(copied)), str(copied))


@pytest.mark.parametrize(
    ("place", "changes", "complaint"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "XLPipeline"),
        ("model_index.json", {"_class_name": "StableDiffusionInpaintPipeline"}, "Inpaint"),
        ("model_index.json", {"text_encoder": ["transformers", "T5EncoderModel"]}, "T5Encoder"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "AutoencoderTiny"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"block_out_channels": [32, 64]}, "conv_in.weight is 16×4×3×3"),
        ("unet/config.json", {"layers_per_block": 2}, "by unet/config.json it is 64"),
        ("unet/config.json", {"cross_attention_dim": 2048}, "width 2048"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type"),
        ("unet/config.json", {"down_block_types": ["No", "Such"]}, "does not describe a network"),
        ("unet/config.json", {"sample_size": None}, "sample_size"),
        ("unet/config.json", {"quantization_config": {"load_in_8bit": True}}, "quantised"),
        ("vae/config.json", {"latent_channels": 16}, "latents of 16 channels"),
        ("vae/config.json", {"layers_per_block": 3}, "lacks"),
        ("text_encoder/config.json", {"num_hidden_layers": 2}, "lacks"),
        ("text_encoder/config.json", {"vocab_size": 10}, "knows 10"),
        ("text_encoder/config.json", {"max_position_embeddings": 8}, "model_max_length"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}, "model_max_length"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "'sample'"),
        ("scheduler/scheduler_config.json", {"_class_name": "NoSuchScheduler"}, "NoSuchScheduler"),
    ],
)
def test_another_model_is_told_by_what_it_is(copied, place, changes, complaint):
    edit(copied / place, **changes)
    assert complaint in refused(copied)


def test_weights_that_no_layer_wants(copied):
    tensors = load_file(copied / UNET)
    save_file({**tensors, "extra.weight": torch.zeros(2)}, copied / UNET)
    assert "extra.weight" in refused(copied)


def _shard(folder: Path) -> list[Path]:
    """A network's weights in two files and their index, as large models are saved."""
    single = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(single)
    names = sorted(tensors)
    files = [folder / f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    halves = names[::2], names[1::2]
    for file, half in zip(files, halves, strict=True):
        save_file({name: tensors[name] for name in half}, file)
    where = {name: file.name for file, half in zip(files, halves, strict=True) for name in half}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / f"{single.name}.index.json").write_text(json.dumps(index))
    single.unlink()
    return files


def test_every_shard_must_be_there_and_whole(copied):
    _, second = _shard(copied / "unet")
    check_networks(resolve_base(str(copied)), str(copied))
    cut(second)
    assert second.name in refused(copied)
    second.unlink()
    assert f"{second.name} is missing" in refused(copied)
    index = copied / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../other.safetensors"}}))
    assert index.name in refused(copied)


def test_pickles_only_are_refused_with_the_command(copied):
    path = copied / UNET
    path.rename(path.with_suffix(".bin"))
    told = refused(copied)
    assert "pickled" in told
    assert "from_pretrained" in told


def test_weights_under_another_name_are_not_taken(copied):
    (copied / UNET).rename(copied / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    told = refused(copied)
    assert "diffusion_pytorch_model.safetensors is missing" in told
    assert "non_ema" in told


def test_another_autoencoder_is_checked_alike(copied, tmp_path):
    vae = shutil.copytree(copied / "vae", tmp_path / "vae")
    shutil.rmtree(copied / "vae")  # it is not wanted then
    check_networks(resolve_base(str(copied), base_vae=str(vae)), str(copied), str(vae))
    edit(vae / "config.json", latent_channels=16)
    assert "dreambooth.base_vae" in refused(copied, base_vae=str(vae))
    edit(vae / "config.json", latent_channels=4, layers_per_block=3)
    assert "lacks" in refused(copied, base_vae=str(vae))
    cut(vae / "diffusion_pytorch_model.safetensors")
    assert "cut short" in refused(copied, base_vae=str(vae))
    edit(vae / "config.json", _class_name="AutoencoderTiny")
    assert "AutoencoderTiny" in refused(copied, base_vae=str(vae))


def test_an_autoencoder_beside_the_embedded_base_is_compared_with_its_network(tmp_path):
    embedded = resolve_base("embedded").folder
    vae = shutil.copytree(embedded / "vae", tmp_path / "vae")
    edit(vae / "config.json", layers_per_block=1)
    tuning = {"base_vae": str(vae)}
    config = StudyConfig.model_validate(
        {"name": "s", "cases": {"format": "phantom"}, "dreambooth": tuning}
    )
    with pytest.raises(InputError, match="base_vae"):
        Study(config, tmp_path / "root").check_base()


def test_a_pipeline_is_no_autoencoder(copied):
    assert f"name its folder {copied / 'vae'}" in refused(copied, base_vae=str(copied))


def test_one_file_is_told_by_what_is_in_it(copied, tmp_path):
    whole = checkpoint(copied)
    file = tmp_path / "model.safetensors"

    def told(tensors: dict[str, torch.Tensor], **options: str) -> str:
        save_file(tensors, file)
        return refused(copied if options else file, **options)

    assert "from_single_file" in told(whole)
    assert "AutoencoderKL" in told(whole, base_vae=str(file))
    inpainting = "model.diffusion_model.input_blocks.0.0.weight"
    assert "inpainting" in told({**whole, inpainting: torch.zeros(16, 9, 3, 3)})
    xl = {"conditioner.embedders.1.model.ln_final.weight": torch.zeros(2)}
    assert "XL" in told({**whole, **xl})
    headless = {name: value for name, value in whole.items() if "cond_stage" not in name}
    assert "no text encoder" in told(headless)
    assert "a UNet alone" in told(load_file(copied / UNET))
    assert "an autoencoder alone" in told(
        load_file(copied / "vae" / "diffusion_pytorch_model.safetensors")
    )
    assert "LoRA" in told({"unet.down_blocks.0.lora_A.weight": torch.zeros(2)})
    assert "no Stable Diffusion" in told({"weight": torch.zeros(2)})
    assert "no autoencoder" in told({"weight": torch.zeros(2)}, base_vae=str(file))
    file.write_text(LFS)
    assert "git lfs pull" in refused(file)
    cut(file, 0)
    assert "cut short" in refused(file)
    text = tmp_path / "model.yaml"
    text.write_text("no weights")
    assert "name the folder of a model" in refused(text)


def test_a_folder_that_holds_one_checkpoint(tmp_path, tiny_base):
    save_file(checkpoint(tiny_base), tmp_path / "RealisticVision.safetensors")
    assert "from_single_file" in refused(tmp_path)


def test_a_part_of_a_model_is_told_from_the_whole(copied):
    assert f"name the folder {copied}" in refused(copied / "unet")
