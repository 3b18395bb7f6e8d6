"""The recogniser's embedded weights: trained, resumed, and taken up by timm."""

import pytest
import timm
import torch
from safetensors.torch import load_file

from synth_pipeline import backbone_weights, backbones
from synth_pipeline.errors import InputError
from synth_pipeline.phantom import base_parts, resumable, train_backbone
from synth_pipeline.phantom.phenotypes import FIELDS

NAME = "test_resnet"


@pytest.fixture
def train(landmark_model, monkeypatch, tmp_path):
    monkeypatch.setattr(base_parts, "_CHUNK", 16)
    monkeypatch.setattr(resumable, "_CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(train_backbone, "_HELD_OUT", 8)
    monkeypatch.setattr(train_backbone, "_BATCH", 8)

    def run(work: str, **more):
        return train_backbone.train_backbone(
            tmp_path / f"{work}.safetensors",
            name=NAME,
            work_dir=tmp_path / work,
            mesh_path=landmark_model,
            images=32,
            **{"steps": 4, **more},
        )

    return run


def test_a_stopped_training_goes_on_to_the_same_bits(train, tmp_path):
    train("whole")

    def stop(done: int, total: int, note: str = "") -> None:
        if note.startswith(NAME) and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("cut", progress=stop)
    assert not (tmp_path / "cut.safetensors").exists()
    train("cut")
    files = [tmp_path / f"{name}.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_it_learns(train, tmp_path):
    losses = {}
    for steps in (4, 60):
        train(f"after{steps}", steps=steps)
        state = torch.load(tmp_path / f"after{steps}" / f"{NAME}.pt", weights_only=True)
        losses[steps] = sum(state["losses"][-4:]) / 4
    assert losses[60] < 0.9 * losses[4]


def test_timm_takes_the_weights_up_but_for_the_head(train, tmp_path, monkeypatch):
    train(NAME)
    monkeypatch.setattr(backbone_weights, "EMBEDDED", tmp_path)
    model, _ = backbones.create(NAME, classes=len(FIELDS), pretrained="embedded", dropout=0.0)
    written, loaded = load_file(tmp_path / f"{NAME}.safetensors"), model.state_dict()
    published = timm.get_pretrained_cfg(NAME)
    stem, head = f"{published.first_conv}.weight", f"{published.classifier}.weight"
    assert torch.equal(loaded[stem], written[stem].float())
    assert not torch.equal(loaded[head], written[head].float())
    assert backbones.weights_identity(NAME, "embedded").startswith(f"{NAME} sha256 ")


def test_a_backbone_without_embedded_weights_is_one_sentence():
    with pytest.raises(InputError, match="no such weights for resnet50; they exist for"):
        backbones.check("resnet50", "embedded")
