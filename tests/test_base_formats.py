"""Base models in other formats: loaded, or converted by the very command that the refusal names."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from synth_pipeline.base_model import check_networks, resolve_base
from synth_pipeline.cost_model import base_cost
from synth_pipeline.errors import InputError
from synth_pipeline.loaded_base import load_pipeline
from tests.one_file import write_ckpt, write_safetensors

PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture
def copied(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base")


def state(folder: Path, vae_folder: Path | None = None) -> dict[str, torch.Tensor]:
    pipeline = load_pipeline(folder, vae_folder)
    return {
        f"{part}.{name}": value
        for part in PARTS
        for name, value in getattr(pipeline, part).state_dict().items()
    }


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def run_named_command(refused: Path, *, config: str = "", **options: str) -> Path:
    """Run the command in the refusal of a base model; returns the folder that it names."""
    with pytest.raises(InputError) as caught:
        resolve_base(str(refused), **options)
    message = str(caught.value)
    python, switch, code = shlex.split(message.split("`")[1])
    assert (python, switch) == (sys.executable, "-c")
    made = Path(code.split('"')[-2])
    assert str(made) in message.split("`")[2] or "name the new folder" in message
    file = code.split('"')[1]
    exec(code.replace(f'"{file}"', f'"{file}"{config}'), {})
    return made


@pytest.mark.parametrize("parts", [PARTS, ("unet",), ("text_encoder", "vae")])
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_weights_of_a_variant_are_loaded(copied, tiny_base, parts, variant):
    wanted = state(tiny_base)
    for part in parts:
        (file,) = (copied / part).glob("*.safetensors")
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))
    check_networks(resolve_base(str(copied)), str(copied))
    assert_equal(state(copied), wanted)
    assert base_cost(copied) == base_cost(tiny_base)


def test_full_precision_goes_before_a_variant(copied, tiny_base):
    """And the half that is not loaded does not count in the estimate."""
    for part in PARTS:
        (file,) = (copied / part).glob("*.safetensors")
        shutil.copy(tiny_base / "model_index.json", f"{file.parent}/{file.stem}.fp16.safetensors")
    resolve_base(str(copied))
    assert_equal(state(copied), state(tiny_base))
    assert base_cost(copied) == base_cost(tiny_base)


def test_an_autoencoder_of_a_variant_is_loaded(copied, tiny_base):
    (file,) = (copied / "vae").glob("*.safetensors")
    file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    base = resolve_base(str(tiny_base), base_vae=str(copied / "vae"))
    assert_equal(state(base.folder, base.vae_folder), state(tiny_base))


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_safetensors, "Realistic Vision's v5.1.safetensors"), (write_ckpt, "sd.ckpt")],
)
def test_one_file_is_converted_by_the_command(tiny_base, tmp_path, write, name):
    """Without a hub, so with the configurations of another folder, as the message says."""
    one = write(tiny_base, tmp_path / name)
    made = run_named_command(one, config=f', config="{tiny_base}"')
    check_networks(resolve_base(str(made)), str(made))
    assert_equal(state(made), state(tiny_base))


def test_an_autoencoder_in_one_file_is_converted_by_the_command(tiny_base, tmp_path):
    one = write_safetensors(tiny_base, tmp_path / "vae-ft-mse.safetensors")
    config = f', config="{tiny_base}", subfolder="vae"'
    made = run_named_command(tiny_base, config=config, base_vae=str(one))
    base = resolve_base(str(tiny_base), base_vae=str(made))
    assert_equal(state(base.folder, base.vae_folder), state(tiny_base))


def test_pickles_are_converted_by_the_command(copied, tiny_base):
    pipeline = load_pipeline(tiny_base)
    for part in PARTS:
        (file,) = (copied / part).glob("*.safetensors")
        torch.save(getattr(pipeline, part).state_dict(), _pickled(file))
        file.unlink()
    made = run_named_command(copied)
    check_networks(resolve_base(str(made)), str(made))
    assert_equal(state(made), state(tiny_base))


def _pickled(file: Path) -> Path:
    stem = "pytorch_model" if file.stem == "model" else file.stem
    return file.with_name(f"{stem}.bin")


def test_names_of_older_libraries_are_understood(copied, tiny_base):
    """As most repositories of Stable Diffusion 1.5's relatives still have them."""
    (vae,) = (copied / "vae").glob("*.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in load_file(vae).items():
        for now, then in old.items():
            name = name.replace(f".{now}.", f".{then}.")
        renamed[name] = value
    assert any(".proj_attn." in name for name in renamed)
    save_file(renamed, vae)
    (text,) = (copied / "text_encoder").glob("*.safetensors")
    renamed = {
        f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in load_file(text).items()
    }
    position = "text_model.embeddings.position_ids"
    save_file({**renamed, position: torch.arange(4)[None]}, text)
    check_networks(resolve_base(str(copied)), str(copied))
    assert_equal(state(copied), state(tiny_base))
