"""Files of first weights as people have them: whatever is wrong is told before any training."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from synth_pipeline import backbones
from synth_pipeline.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Right weights of a small network, in both formats."""
    weights = timm.create_model("test_resnet", num_classes=7).state_dict()
    save_file(weights, tmp_path / "test_resnet.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "pickled.pth")
    return tmp_path


def refused(folder: Path, name: str = "test_resnet") -> str:
    with pytest.raises(InputError, match=r"^[^\n]*\.$") as caught:
        backbones.check_weights(name, str(folder))
    return str(caught.value)


def test_right_weights_pass_and_are_loaded(folder):
    backbones.check_weights("test_resnet", str(folder))
    backbones.create("test_resnet", classes=3, pretrained=str(folder), dropout=0.0)
    (folder / "test_resnet.safetensors").unlink()
    (folder / "pickled.pth").rename(folder / "test_resnet.pth")
    backbones.check_weights("test_resnet", str(folder))


def test_a_safetensors_file_that_is_not_whole(folder):
    path = folder / "test_resnet.safetensors"
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-1], whole + b"x", b"<html></html>"):
        path.write_bytes(content)
        assert "test_resnet.safetensors is damaged or cut short" in refused(folder)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refused(folder)
    path.unlink()
    path.symlink_to(folder / "gone")
    assert "a link to nothing" in refused(folder)
    path.unlink()
    path.mkdir()
    assert "is not a file" in refused(folder)


def test_a_pickle_that_is_not_whole(folder):
    path = folder / "test_resnet.pth"
    whole = (folder / "pickled.pth").read_bytes()
    (folder / "test_resnet.safetensors").unlink()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"<html></html>"):
        path.write_bytes(content)
        assert "test_resnet.pth, the weights of test_resnet" in refused(folder)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refused(folder)
    torch.save({"epoch": 3, "state_dict": {"a": "text"}}, path)
    assert "no state dictionary of tensors" in refused(folder)


def test_weights_of_another_network(folder):
    shutil.copy(folder / "test_resnet.safetensors", folder / "test_vit.safetensors")
    assert "holds no weights of test_vit" in refused(folder, "test_vit")
    shutil.copy(folder / "test_resnet.safetensors", folder / "swin-t.safetensors")
    assert "holds no weights of swin-t" in refused(folder, "swin-t")
    shutil.copy(folder / "test_resnet.safetensors", folder / "vgg-face.safetensors")
    assert "holds no weights of vgg-face" in refused(folder, "vgg-face")


def test_weights_of_another_shape(folder):
    weights = timm.create_model("test_resnet").state_dict()
    weights["conv1.0.weight"] = weights["conv1.0.weight"][:, :1].contiguous()
    save_file(weights, folder / "test_resnet.safetensors")
    assert "of another shape" in refused(folder)


def test_a_folder_that_is_a_file_or_lacks_the_file(folder):
    assert "is a file; name a folder" in refused(folder / "pickled.pth")
    assert "there is no folder" in refused(folder / "nowhere")
    assert f"put them into {folder}" in refused(folder, "resnet18")


def test_a_size_that_a_network_does_not_take_is_told_with_its_weights():
    with pytest.raises(InputError, match=r"size_px: facenet does not take pictures of 48 pixels"):
        backbones.check_weights("facenet", False, size_px=48)
    backbones.check_weights("test_resnet", False, size_px=48)
    backbones.check_weights("clip-vit-b32", False, size_px=96)


def test_weights_of_another_size_of_a_network_with_a_fixed_one(folder):
    """Their positions are of other places, and the training would have found it."""
    weights = timm.create_model("test_vit").state_dict()
    save_file(weights, folder / "test_vit.safetensors")
    made_for = timm.get_pretrained_cfg("test_vit").input_size[1]
    backbones.check_weights("test_vit", str(folder), size_px=made_for)
    checks = (
        lambda: backbones.check_weights("test_vit", str(folder), size_px=2 * made_for),
        lambda: backbones.create(
            "test_vit", classes=3, pretrained=str(folder), dropout=0.0, size_px=2 * made_for
        ),
    )
    for check in checks:
        with pytest.raises(InputError, match="of another shape"):
            check()
