"""Folds, training and evaluation on phantoms, with a real small timm network."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from synth_pipeline import backbones, evaluation, training
from synth_pipeline.config import RecognitionConfig
from synth_pipeline.errors import InputError, StageError
from synth_pipeline.fold_training import predict
from synth_pipeline.picture_store import decoded
from synth_pipeline.recognition_data import Example, folds
from synth_pipeline.shifts import SHIFTS, shifted

CONFIG = RecognitionConfig(
    backbones=("test_resnet",),
    pretrained=False,
    folds=2,
    epochs=2,
    batch_size=4,
    learning_rate=1e-3,
    dropout=0.0,
    size_px=48,
)


@pytest.fixture(scope="module")
def examples(phantom_files) -> list[Example]:
    return [
        Example(path, name, f"{name}/{place}", False)
        for name, files in phantom_files.items()
        for place, path in enumerate(files[:4])
    ]


@pytest.fixture
def train(examples, tmp_path):
    def run(name: str, *, config=CONFIG, fold=0, given=None):
        out_dir = tmp_path / name
        out_dir.mkdir()
        given = examples if given is None else given
        done = training.run(
            config,
            backbone="test_resnet",
            classes=sorted({example.class_id for example in examples}),
            examples=given,
            fold=fold,
            seed=3,
            out_dir=out_dir,
        )
        return out_dir, done

    return run


people = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 6)), min_size=8, max_size=40
).filter(lambda found: len({name for name, _ in found}) > 1 and len(set(found)) >= 5)


@settings(deadline=None)
@given(people, st.integers(2, 5), st.integers(0, 99))
def test_folds_validate_each_image_once_and_split_no_person(found, count, seed):
    examples = [Example(None, name, f"{name}{person}", False) for name, person in found]
    cut = folds(examples, count, seed)
    assert sorted(np.concatenate([validation for _, validation in cut])) == list(range(len(found)))
    for train_idx, validation_idx in cut:
        assert len(validation_idx)
        assert not set(train_idx) & set(validation_idx)
        groups = [{examples[i].group for i in half} for half in (train_idx, validation_idx)]
        assert not groups[0] & groups[1]


def test_folds_do_not_hang_on_the_order_of_images(examples):
    turned = examples[::-1]
    one = {examples[i].group for i in folds(examples, 3, 1)[0][1]}
    assert one == {turned[i].group for i in folds(turned, 3, 1)[0][1]}


def test_fewer_people_than_folds_and_one_class_are_refused(examples):
    with pytest.raises(InputError, match=r"recognition\.folds is 20"):
        folds(examples, 20, 0)
    with pytest.raises(InputError, match="two classes"):
        folds(examples[:4], 2, 0)


def test_pictures_are_padded_not_stretched(tmp_path):
    Image.new("RGB", (40, 20), (200, 10, 10)).save(tmp_path / "wide.png")
    picture = decoded([tmp_path / "wide.png"], 32).all()[0]
    assert picture.shape == (3, 32, 32)
    assert picture[:, 16, 16].tolist() == [200, 10, 10]
    assert picture[:, 2, 16].tolist() == [128, 128, 128]


def test_a_trained_network_learns_loads_in_timm_and_says_what_it_saw(train):
    out_dir, done = train("long", config=CONFIG.model_copy(update={"epochs": 12}))
    history = pq.read_table(out_dir / "history.parquet").to_pylist()
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert done["validation_top1"] == max(row["validation_top1"] for row in history)
    facts = json.loads((out_dir / "fold.json").read_bytes())
    assert facts["training_images"] + facts["validation_images"] == 12
    model = timm.create_model("test_resnet", num_classes=3)
    model.load_state_dict(load_file(out_dir / "model.safetensors"))


def test_same_seed_same_bytes_whatever_the_order_of_images(train, examples):
    one, _ = train("one")
    two, _ = train("two", given=examples[::-1])
    for name in ("model.safetensors", "fold.json", "history.parquet"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_folds_differ(train):
    one, _ = train("one")
    two, _ = train("two", fold=1)
    assert (one / "model.safetensors").read_bytes() != (two / "model.safetensors").read_bytes()


def test_a_loss_that_explodes_is_one_sentence_and_leaves_no_model(train, tmp_path):
    with pytest.raises(StageError, match=r"lower recognition\.learning_rate"):
        train("hot", config=CONFIG.model_copy(update={"learning_rate": 1e30, "epochs": 5}))
    assert not list((tmp_path / "hot").iterdir())


def test_evaluation_keeps_what_each_fold_says_of_each_photo(train, phantom_files, tmp_path):
    fold_dirs = [train(f"fold{fold}", fold=fold)[0] for fold in range(2)]
    classes = sorted(phantom_files)
    test = [
        (f"case-{name}-{place}", name, path)
        for name, files in phantom_files.items()
        for place, path in enumerate(files[4:])
    ]
    out_dir = tmp_path / "evaluated"
    out_dir.mkdir()
    done = evaluation.run(
        CONFIG,
        backbone="test_resnet",
        regime="real",
        scale=None,
        classes=classes,
        fold_dirs=fold_dirs,
        test=test,
        out_dir=out_dir,
    )
    rows = pq.read_table(out_dir / "predictions.parquet").to_pylist()
    assert len(rows) == 2 * len(test)
    assert json.loads((out_dir / "classes.json").read_bytes()) == classes
    # The stored probabilities are the network's own, asked once more.
    model, _ = backbones.create("test_resnet", classes=3, pretrained=False, dropout=0.0)
    norm = backbones.IMAGENET  # of all, in the published protocol
    model.load_state_dict(load_file(fold_dirs[1] / "model.safetensors"))
    pictures = decoded([path for _, _, path in test], 48).all()
    own = predict(model, pictures, norm, 4).softmax(1)
    stored = [row["probabilities"] for row in rows if row["fold"] == 1]
    assert np.allclose(stored, own, atol=1e-5)
    right = [np.argmax(row["probabilities"]) == row["true_index"] for row in rows]
    assert done["top1"] == pytest.approx(np.mean(right))
    # Of each change, what the network says of the changed photos.
    shifts_found = pq.read_table(out_dir / "shifts.parquet").to_pylist()
    assert len(shifts_found) == 5 * len(rows)
    dark = torch.from_numpy(shifted(pictures.numpy(), "darkened"))
    order = predict(model, dark, norm, 4).argsort(1, descending=True).tolist()
    expected = [order[n].index(classes.index(name)) + 1 for n, (_, name, _) in enumerate(test)]
    assert [
        row["true_class_rank"]
        for row in shifts_found
        if row["shift"] == "darkened" and row["fold"] == 1
    ] == expected


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_changes_the_picture_and_keeps_its_size(phantom_files, name):
    pictures = decoded(next(iter(phantom_files.values()))[:2], 64).all().numpy()
    changed = shifted(pictures, name)
    assert changed.shape == pictures.shape
    assert changed.dtype == np.uint8
    apart = np.abs(changed.astype(float) - pictures).mean()
    assert 1 < apart < 120
    assert (shifted(pictures, name) == changed).all()


def test_nothing_held_out_is_said(tmp_path):
    with pytest.raises(InputError, match="No photo is held out"):
        evaluation.run(
            CONFIG,
            backbone="test_resnet",
            regime="real",
            scale=None,
            classes=["a", "b"],
            fold_dirs=[],
            test=[],
            out_dir=tmp_path,
        )


@pytest.mark.parametrize("name", ["test_resnet", "resnet18"])
def test_each_backbone_gets_the_normalisation_it_was_made_for(name):
    _, norm = backbones.create(name, classes=2, pretrained=False, dropout=0.0)
    published = timm.get_pretrained_cfg(name)
    assert (norm.mean, norm.deviation) == (published.mean, published.std)


def test_pretrained_weights_that_cannot_be_had_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"set recognition\.pretrained to false"):
        backbones.create("resnet18", classes=2, pretrained=True, dropout=0.0)
