"""Models and weights of a hub: downloaded once, and refused at once where it does not answer."""

import shutil

import pytest
import timm
import torch

from synth_pipeline import backbones
from synth_pipeline.base_model import resolve_base
from synth_pipeline.errors import InputError
from synth_pipeline.loaded_base import load_pipeline
from tests.hub_server import COMMIT, hub_of


@pytest.fixture
def hub(tiny_base, tmp_path, monkeypatch):
    """A hub with a base model, the same in half precision, and a backbone; and an empty cache."""
    half = shutil.copytree(tiny_base, tmp_path / "half")
    for file in list(half.rglob("*.safetensors")):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    backbone = tmp_path / "resnet18"
    backbone.mkdir()
    torch.save(timm.create_model("test_resnet").state_dict(), backbone / "pytorch_model.bin")
    folders = {"some/base": tiny_base, "some/half": half, "timm/test_resnet.r160_in1k": backbone}
    with hub_of(folders) as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            served.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield served


def downloads(hub) -> int:
    return sum("/resolve/" in asked and asked.startswith("GET") for asked in hub.asked)


@pytest.mark.parametrize("name", ["some/base", "some/half"])
def test_a_base_model_is_downloaded_once(hub, tiny_base, name):
    base = resolve_base(name)
    assert base.identity == f"{name}@{COMMIT}"
    ours, wanted = load_pipeline(base.folder), load_pipeline(tiny_base)
    for key, value in wanted.unet.state_dict().items():
        assert torch.equal(ours.unet.state_dict()[key], value)
    made = downloads(hub)
    hub.broken = 503
    assert resolve_base(name) == base, "the cache does not do"
    hub.asked.clear()
    assert resolve_base(name, revision=COMMIT).folder == base.folder
    assert hub.asked == [], "a commit was asked about again"
    hub.broken = None
    assert resolve_base(name) == base
    assert downloads(hub) == 0 < made


def test_a_name_or_a_revision_that_does_not_exist(hub):
    with pytest.raises(InputError, match="the hub has no model of this name"):
        resolve_base("nobody/nothing-here")
    with pytest.raises(InputError, match="no revision v9; name a branch"):
        resolve_base("some/base", revision="v9")
    with pytest.raises(InputError, match=r"^[^\n]*the hub has no model of this name[^\n]*$"):
        resolve_base("not a/valid name")


@pytest.mark.parametrize("status", [500, 503, 200])
def test_a_hub_that_is_down_is_asked_once(hub, status):
    """Its client tries five times, for a minute; a proxy's login page comes with 200."""
    hub.broken = status
    with pytest.raises(InputError, match=r"^[^\n]*nor can it be downloaded[^\n]*network[^\n]*$"):
        resolve_base("some/base")
    for refuse in (
        lambda: backbones.check_weights("test_resnet", True),
        lambda: backbones.create("test_resnet", classes=3, pretrained=True, dropout=0.5),
    ):
        with pytest.raises(InputError, match=r"^[^\n]*nor can they be downloaded[^\n]*$"):
            refuse()
    assert len(hub.asked) == 3


def test_a_backbone_whose_weights_are_cached_needs_no_hub(hub):
    backbones.check_weights("test_resnet", True)
    assert downloads(hub) == 0, "a check downloads nothing"
    backbones.create("test_resnet", classes=3, pretrained=True, dropout=0.5)
    assert downloads(hub) == 1
    hub.asked.clear()
    backbones.check_weights("test_resnet", True)
    assert hub.asked == []


def test_a_network_without_published_weights_is_told():
    with pytest.raises(InputError, match="no weights of botnet50ts_256 are published"):
        backbones.check_weights("botnet50ts_256", True)
