"""The paper's six by name, FaceNet in timm, heads, and first weights from files."""

import timm
import torch
from pytest import fixture, mark, raises
from safetensors.torch import save_file

from synth_pipeline import backbone_weights, backbones, models
from synth_pipeline.errors import InputError

SIX = {
    "resnet152": "resnet152",
    "densenet169": "densenet169",
    "facenet": "inception_resnet_v1.vggface2",
    "vgg-face": "vgg16",
    "swin-t": "swin_tiny_patch4_window7_224.ms_in1k",
    "clip-vit-b32": "vit_base_patch32_clip_quickgelu_224.openai",
}


def make(name: str, **more):
    options = {"classes": 3, "pretrained": False, "dropout": 0.5}
    return backbones.create(name, **{**options, **more})


@fixture(scope="module")
def facenet():
    return make("facenet")[0].eval()


@mark.parametrize(("name", "known_as"), SIX.items())
def test_the_papers_six_are_known_and_state_their_weights(name, known_as):
    assert backbones.named(name).timm == known_as
    backbones.check(name, pretrained=False)
    if name != "vgg-face":
        assert timm.get_pretrained_cfg(known_as).has_weights
        assert backbones.weights_identity(name, True).startswith(f"{name} ")


def test_clip_is_built_with_the_gelu_that_openai_trained_it_with():
    published = timm.get_pretrained_cfg(SIX["clip-vit-b32"])
    assert published.hf_hub_id == "timm/vit_base_patch32_clip_224.openai"
    other = timm.get_pretrained_cfg("vit_base_patch32_clip_224.openai")
    assert "quickgelu" in other.notes[0]


def test_each_states_the_normalisation_it_was_made_for(facenet):
    norm = make("facenet")[1]
    pixel = torch.tensor(200.0)
    assert (pixel / 255 - norm.mean[0]) / norm.deviation[0] == (pixel - 127.5) / 128
    published = timm.get_pretrained_cfg(SIX["clip-vit-b32"])
    assert published.mean != backbones.IMAGENET.mean
    face = backbones.NAMED["vgg-face"].norm
    assert (pixel / 255 - face.mean[2]) / face.deviation[2] == pixel - 93.5940


def test_facenet_has_the_published_layers_and_an_embedding(facenet):
    names = set(facenet.state_dict())
    # The first and last of each kind in facenet-pytorch's checkpoints.
    for name in (
        "conv2d_1a.conv.weight",
        "repeat_1.4.branch2.2.bn.running_var",
        "mixed_6a.branch1.2.conv.weight",
        "repeat_2.9.branch1.2.conv.weight",
        "mixed_7a.branch2.2.bn.weight",
        "repeat_3.0.conv2d.bias",
        "block8.branch1.2.conv.weight",
        "last_linear.weight",
        "last_bn.bias",
        "logits.weight",
    ):
        assert name in names
    assert sum(p.numel() for p in facenet.parameters()) == 23_482_624 + 3 * 513
    features = timm.create_model("inception_resnet_v1", num_classes=0).eval()
    with torch.no_grad():
        assert features(torch.zeros(1, 3, 96, 96)).shape == (1, 512)


def test_facenets_published_files_load_by_their_own_name(facenet, tmp_path):
    state = facenet.state_dict()
    state["logits.weight"] = torch.zeros(8631, 512)
    state["logits.bias"] = torch.zeros(8631)
    torch.save(state, tmp_path / "20180402-114759-vggface2.pt")
    model, _ = make("facenet", pretrained=str(tmp_path))
    assert torch.equal(model.last_linear.weight, facenet.last_linear.weight)
    assert model.logits.weight.shape == (3, 512)
    with raises(InputError, match=r"facenet-casia are missing: put them into .*facenet-casia\.saf"):
        backbones.check("facenet-casia", str(tmp_path))


def test_a_folder_serves_offline_and_its_content_is_the_identity(tmp_path):
    first, _ = make("test_resnet")
    save_file(first.state_dict(), tmp_path / "test_resnet.safetensors")
    model, _ = make("test_resnet", pretrained=str(tmp_path), classes=5)
    assert torch.equal(model.conv1[0].weight, first.conv1[0].weight)
    assert model.get_classifier().weight.shape[0] == 5
    one = backbones.weights_identity("test_resnet", str(tmp_path))
    assert str(tmp_path) not in one
    save_file(make("test_resnet")[0].state_dict(), tmp_path / "test_resnet.safetensors")
    assert backbones.weights_identity("test_resnet", str(tmp_path)) != one


@mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda state: {"x": torch.zeros(1)},
            r"holds no weights of test_resnet: \d+ of \d+ layers",
        ),
        (
            lambda state: {**state, "conv1.0.weight": torch.zeros(2, 3, 3, 3)},
            r"conv1\.0\.weight is 2×3×3×3 there and \d+×3×3×3 here",
        ),
        (lambda state: {"model": 3}, "is no state dictionary of tensors"),
    ],
)
def test_weights_of_another_network_are_one_sentence(tmp_path, change, complaint):
    torch.save(change(make("test_resnet")[0].state_dict()), tmp_path / "test_resnet.pt")
    with raises(InputError, match=complaint):
        make("test_resnet", pretrained=str(tmp_path))


def test_damaged_and_dangerous_files_of_weights_are_one_sentence(tmp_path):
    path = tmp_path / "test_resnet.pt"
    for content in (b"", b"nothing", b"cos\nsystem\n(S'touch planted'\ntR."):
        path.write_bytes(content)
        with raises(InputError, match=r"test_resnet\.pt, the weights of test_resnet"):
            make("test_resnet", pretrained=str(tmp_path))
    path.rename(tmp_path / "test_resnet.safetensors")
    with raises(InputError, match=r"test_resnet\.safetensors is damaged or cut short"):
        make("test_resnet", pretrained=str(tmp_path))
    with raises(InputError, match="there is no folder"):
        backbones.check("test_resnet", str(tmp_path / "nowhere"))


def test_vgg_face_loads_by_parkhis_and_by_torchvisions_names(tmp_path, monkeypatch):
    # VGG-11 with the same naming would be another network: a narrow VGG-16 stands in.
    narrow = [8, 8, "M", 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M"]
    vgg = timm.models.vgg.VGG(narrow, mlp_ratio=1.0)
    theirs = {}
    for ours, value in vgg.state_dict().items():
        layer, _, kind = ours.rpartition(".")
        parkhi = {v: k for k, v in reversed(backbone_weights._VGG_LAYERS.items())}[layer]
        # Linear layers in their files, as in the paper's own.
        theirs[f"{parkhi}.{kind}"] = (
            value.flatten(1) if value.dim() == 4 and "fc" in ours else value
        )
    assert {"conv1_1.weight", "conv5_3.bias", "fc6.weight", "fc8.weight"} <= theirs.keys()
    torch.save(theirs, tmp_path / "vgg-face.pth")
    other = timm.models.vgg.VGG(narrow, mlp_ratio=1.0)
    backbone_weights.load(other, tmp_path / "vgg-face.pth", "vgg-face", ("head.fc",))
    assert torch.equal(other.features[28].weight, vgg.features[28].weight)
    assert torch.equal(other.pre_logits.fc1.weight, vgg.pre_logits.fc1.weight)
    assert not torch.equal(other.head.fc.weight, vgg.head.fc.weight)
    monkeypatch.setattr(models, "default_model_dir", lambda: tmp_path)
    with raises(InputError, match=r"vgg-face are missing: put them into .*weights as vgg-face\."):
        backbones.check("vgg-face", True)


@mark.parametrize("name", ["test_resnet", "test_vit", "facenet"])
def test_what_is_trained_with_the_published_head_loads_in_timm(name):
    model, _ = make(name, head="se", size_px=96)
    architecture, arguments = backbones.recipe(name, "se")
    size = {"img_size": 96} if name == "test_vit" else {}
    again = timm.create_model(architecture, num_classes=3, **arguments, **size)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        x = torch.rand(2, 3, 96, 96)
        assert torch.equal(model.eval()(x), again.eval()(x))
    hidden = [m.out_features for m in model.head.hidden.modules() if hasattr(m, "out_features")]
    assert hidden == ([256] if name == "facenet" else [])


def test_pictures_that_are_too_small_are_one_sentence():
    with raises(InputError, match="facenet does not take pictures of 64 pixels; give at least 75"):
        make("facenet", size_px=64)


def test_a_misspelt_name_is_met_with_the_right_one():
    with raises(InputError, match="did you mean facenet"):
        backbones.check("facnet", pretrained=False)
