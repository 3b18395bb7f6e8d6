"""What leaves a study: it loads where it says, it is complete, and nothing private is in it."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import binom

from flows.cli import main
from synth_pipeline import backbones, synthetic_set
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import load_config
from synth_pipeline.export import export
from synth_pipeline.export_adapters import chance_of_as_many, objection
from synth_pipeline.graph import Node
from synth_pipeline.study import Study
from tests.command_line import PATIENT, command

EVERYTHING = ("--images", "--adapters", "--classifiers")


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "deep" / "out"
    ended = command("export", finished.config, folder, *EVERYTHING, "--root", finished.root)
    assert ended.code in (0, 3), ended.err
    assert f"Exported: {folder}" in ended.out
    return folder


@pytest.fixture(scope="module")
def study(finished):
    study = Study(load_config(finished.config), finished.root)
    study.graph.resolve(study.cases())
    return study


def load_images(folder, monkeypatch, cache):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    return load_dataset(str(folder), split="train", cache_dir=str(cache)).class_encode_column(
        "label"
    )


def test_images_load_in_datasets_and_say_that_they_are_synthetic(
    exported, study, monkeypatch, tmp_path
):
    loaded = load_images(exported / "images", monkeypatch, tmp_path)
    classes = list(study.case_set.classes)
    assert loaded.features["label"].names == classes
    assert len(loaded) == 18
    stored = {
        (name, sample.index): sample
        for name in classes
        for sample in synthetic_set.load(study.graph.artifact(study.sampling(name)).path)
    }
    for row in loaded:
        sample = stored.pop((classes[row["label"]], row["index"]))
        assert row["synthetic"] is True
        assert (row["seed"], row["prompt"]) == (sample.seed, sample.prompt)
        assert row["image"].text["synthetic"] == "true"
        with Image.open(sample.path) as original:
            assert np.array_equal(original, row["image"])


def test_a_classifier_says_the_same_after_timm_has_loaded_it(exported, study):
    classes = list(study.case_set.classes)
    wanted = study.config.recognition
    pictures = torch.randn(4, 3, wanted.size_px, wanted.size_px)
    for run, name in (("real", None), ("synthetic", 12)):
        label = "test_resnet-real" if name is None else f"test_resnet-synthetic-{name}"
        for fold in range(2):
            node = study.training(classes, "test_resnet", run, name, fold)
            own, _ = backbones.create(
                "test_resnet", classes=3, pretrained=False, dropout=wanted.dropout
            )
            weights = study.graph.artifact(node).path / "model.safetensors"
            own.load_state_dict(load_file(weights))
            folder = exported / "classifiers" / label / f"fold-{fold + 1}"
            loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
            with torch.no_grad():
                assert torch.equal(loaded.eval()(pictures), own.eval()(pictures))
            settings = loaded.pretrained_cfg
            norm = backbones.IMAGENET  # of all, in the published protocol
            assert (tuple(settings["mean"]), tuple(settings["std"])) == (norm.mean, norm.deviation)
            assert settings["input_size"] == (3, wanted.size_px, wanted.size_px)
            assert settings["label_names"] == classes


def test_a_classifiers_card_has_its_scores(exported, finished):
    card = (exported / "classifiers" / "test_resnet-real" / "fold-1" / "README.md").read_text()
    table = pq.read_table(finished.root / "studies" / "small" / "scores.parquet").to_pylist()
    for row in (row for row in table if row["regime"] == "real"):
        said = f"{100 * row['mean']:.1f} | {100 * row['low']:.1f} to {100 * row['high']:.1f}"
        assert re.search(rf"{row['metric']}.* \| {said}", card), row
    assert "6 images, and 6 more" in card
    assert "licence is not chosen" in card


def test_an_adapter_loads_in_diffusers(exported):
    from diffusers import StableDiffusionPipeline

    folder = min((exported / "adapters").iterdir())
    pipeline = StableDiffusionPipeline.from_pretrained(
        resolve_base("embedded").folder, local_files_only=True
    )
    pipeline.load_lora_weights(str(folder))
    loaded = {
        name.replace(".default_0", ""): value
        for name, value in pipeline.unet.named_parameters()
        if "lora_" in name
    }
    stored = load_file(folder / "pytorch_lora_weights.safetensors")
    assert len(loaded) == len(stored) > 0
    for name, value in stored.items():
        assert torch.equal(loaded[name.removeprefix("unet.")], value)


def test_nothing_private_is_in_it(exported, study, finished):
    case_set = study.case_set
    pixels = set()
    for case in case_set.cases:
        with Image.open(case.path) as photo:
            pixels.add(photo.convert("RGB").tobytes())
    forbidden = [PATIENT, str(finished.root), str(finished.photos)]
    forbidden += [text for case in case_set.cases for text in (case.case_id, case.sha256)]
    forbidden += [case.subject_id for case in case_set.cases]
    files = [path for path in exported.rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        assert not [text for text in forbidden if text.encode() in content], path
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.convert("RGB").tobytes() not in pixels
        assert path.stat().st_mode & 0o777 == 0o600
    assert all(p.stat().st_mode & 0o777 == 0o700 for p in exported.rglob("*") if p.is_dir())
    assert {path.suffix for path in files} == {".png", ".md", ".json", ".jsonl", ".safetensors"}


class Planted(Study):
    """A study whose generator shows two training photos of one class again, and once no face."""

    victim = ""

    def sampling(self, class_id: str) -> Node:
        node = super().sampling(class_id)
        if class_id != self.victim:
            return node

        def body(inputs, out_dir, progress):
            output = node.body(inputs, out_dir, progress)
            photos = [case.path for case in self.case_set.train(class_id)][:2]
            for index, path in enumerate(photos):
                with Image.open(path) as photo:
                    photo.rotate(2).save(out_dir / "images" / f"{index:05d}.png")
            Image.new("RGB", (128, 128), (90, 90, 90)).save(out_dir / "images" / "00005.png")
            return output

        return Node(node.stage, node.label, 99, node.parameters, body, node.inputs, node.libraries)


@pytest.fixture(scope="module")
def planted(finished, study, tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    shutil.copytree(finished.root / "store", root / "store")
    made = Planted(study.config, root)
    made.victim = study.case_set.classes[1]
    # Every class has its node once, as the library's own are made.
    nodes = {}
    made.sampling = lambda name: nodes.setdefault(name, Planted.sampling(made, name))
    classes = list(study.case_set.classes)
    made.make(made.cases())
    for name in classes:
        for node in made.class_nodes(name):
            made.make(node)
    for node in (made.ranking(classes), made.copies(classes), made.memorisation(classes)):
        made.make(node)
    return made


def test_copies_and_images_without_a_face_stay_behind(planted, tmp_path):
    classes = list(planted.case_set.classes)
    done = export(planted, tmp_path / "out", kinds=["images"], classes=classes)
    files = {path.name for path in (tmp_path / "out/images/train" / planted.victim).iterdir()}
    assert files == {"00002.png", "00003.png", "00004.png"}
    assert done.counts == {"images": 15}
    lines = (tmp_path / "out/images/train/metadata.jsonl").read_text().splitlines()
    assert len(lines) == 15
    named = {json.loads(line)["file_name"] for line in lines}
    assert f"{planted.victim}/00000.png" not in named
    assert re.search(rf"\| {planted.victim} .*\| 6 \| 2 \| 3 \|", (
        tmp_path / "out/images/README.md"
    ).read_text())  # fmt: skip


def test_the_adapter_of_a_class_that_was_copied_is_refused(planted, tmp_path):
    classes = list(planted.case_set.classes)
    done = export(planted, tmp_path / "out", kinds=["adapters"], classes=classes)
    assert set(done.refused) == {planted.victim}
    assert "2 of its 6 images were withheld as copies" in done.refused[planted.victim]
    assert done.counts == {"adapters": 2}
    assert not (tmp_path / "out/adapters" / planted.victim).exists()


def row(score=0.5, low=0.3, high=0.7):
    return {"images": 20, "training": 4, "held_out": 2, "score": score, "low": low, "high": high}


@pytest.mark.parametrize(
    ("audited", "memorised", "calibration", "told"),
    [
        ({False: 100}, row(), "quantile 0.002", ""),
        ({False: 97, True: 3}, row(), "quantile 0.002", ""),
        ({False: 96, True: 4}, row(), "quantile 0.002", "4 of its 100 images"),
        ({False: 99, None: 1}, row(), "quantile 0.002", "could read only 99"),
        ({}, row(), "quantile 0.002", "could read only 0"),
        ({False: 100}, row(0.3, 0.2, 0.4), "quantile 0.002", ""),
        ({False: 100}, row(0.8, 0.51, 1.0), "quantile 0.002", "80.0% (95 % interval 51.0%"),
        ({False: 100}, row(0.5, None, None), "quantile 0.002", "20 synthetic images, 4 training"),
        ({False: 100}, row(), "none: all training photos show one subject", "calibrated"),
    ],
)
def test_what_passing_the_audit_means(audited, memorised, calibration, told):
    said = objection(audited, memorised, 0.01, calibration)
    assert told in said
    assert bool(said) == bool(told)


@pytest.mark.parametrize("copies", [0, 1, 3, 24])
@pytest.mark.parametrize("images", [24, 100])
def test_the_chance_of_false_alarms_is_the_binomials(copies, images):
    expected = binom.sf(copies - 1, images, 0.01)
    assert chance_of_as_many(copies, images, 0.01) == pytest.approx(expected, abs=1e-12)


@pytest.fixture
def refused(finished, capsys, tmp_path):
    def refuse(*arguments, folder=None, root=None):
        folder = folder or tmp_path / "out"
        there = sorted(tmp_path.rglob("*"))
        given = ["export", finished.config, folder, *arguments, "--root", root or finished.root]
        assert main([str(each) for each in given]) == 2
        message = capsys.readouterr().err
        assert len(message.splitlines()) == 1, message
        assert sorted(tmp_path.rglob("*")) == there
        return message

    return refuse


def test_what_cannot_be_exported_is_one_sentence(refused, finished, tmp_path):
    assert "--images, --adapters, --classifiers" in refused()
    assert "no such class was finished" in refused("--images", "--class", "nobody")
    assert "there are test_resnet real" in refused("--classifiers", "--run", "resnet18 real")
    assert "inside the store" in refused("--images", folder=finished.root / "store" / "out")
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious.txt").write_text("mine")
    message = refused("--images", folder=full)
    assert "name a new folder, or remove that one" in message
    assert (full / "precious.txt").read_text() == "mine"
    assert "cannot be written" in refused("--images", folder=full / "precious.txt" / "out")


def test_what_is_not_finished_is_one_sentence(refused, tmp_path, finished):
    assert "is not finished" in refused("--images", root=tmp_path / "nowhere")
    asked = ("--classifiers", "--set", "recognition.epochs=2")
    assert "has not finished the stage training test_resnet real fold 1" in refused(*asked)
    assert "makes whole models" in refused("--adapters", "--set", "dreambooth.method=full")


def test_one_class_and_one_run(finished, study, tmp_path):
    name = study.case_set.classes[2]
    only = ("--class", name, "--run", "test_resnet synthetic 6")
    arguments = ("export", finished.config, tmp_path / "out", "--images", "--classifiers", *only)
    assert main([str(each) for each in (*arguments, "--root", finished.root)]) == 0
    assert [path.name for path in (tmp_path / "out/images/train").iterdir() if path.is_dir()] == [
        name
    ]
    assert [path.name for path in (tmp_path / "out/classifiers").iterdir()] == [
        "test_resnet-synthetic-6"
    ]
