"""A base model or weights that cannot be used end `run` and `plan` before anything is written."""

import json
import shutil

import pytest

from flows.cli import main


@pytest.fixture
def refused(capsys, tmp_path, write_config, phantoms):
    """Run and plan a study; each must end with 2 and the same one sentence, and write nothing."""

    def refuse(*changes: str) -> str:
        root = tmp_path / "root"
        told = set()
        for verb in ("run", "plan"):
            options = [part for change in changes for part in ("--set", change)]
            code = main([verb, str(write_config(phantoms)), "--root", str(root), *options])
            message = capsys.readouterr().err
            assert code == 2, message
            assert not root.exists(), "something was written"
            told.add(message)
        (message,) = told
        assert len(message.splitlines()) == 1, message
        return message

    return refuse


@pytest.fixture
def copied(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "a base & ü")


def test_a_file_that_is_cut_short(refused, copied):
    path = copied / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    told = refused(f"dreambooth.base_model={copied}")
    assert "unet/diffusion_pytorch_model.safetensors is damaged or cut short" in told
    assert f"copy the model into {copied} again" in told


def test_weights_of_another_network(refused, copied):
    config = copied / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layers_per_block": 2}))
    assert "take the weights and the configuration from the same" in refused(
        f"dreambooth.base_model={copied}"
    )


def test_an_autoencoder_that_is_not_there(refused, copied):
    shutil.rmtree(copied / "scheduler")
    assert "dreambooth.base_vae" in refused(f"dreambooth.base_vae={copied / 'scheduler'}")


def test_weights_of_a_backbone(refused, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "test_resnet.safetensors").write_bytes(b"cut")
    told = refused(f"recognition.pretrained={tmp_path / 'weights'}")
    assert "weights/test_resnet.safetensors is damaged or cut short" in told


def test_a_hub_that_does_not_answer(refused, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "recognition.backbones: the pretrained weights of test_vit are neither" in refused(
        "recognition.pretrained=true", "recognition.backbones=[test_vit]"
    )
    assert "nor can it be downloaded" in refused("dreambooth.base_model=nobody/nothing-here")


def test_a_size_that_a_backbone_does_not_take(refused):
    assert "facenet does not take pictures of 48 pixels" in refused(
        "recognition.backbones=[facenet]"
    )
