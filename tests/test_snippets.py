"""Every snippet in cards, docstrings, README and documents runs; every command is one.

The snippets are found, not listed: a new one is executed, or fails here for want of a way.
"""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from synth_pipeline import base_model
from synth_pipeline.config import load_config
from synth_pipeline.export import export
from synth_pipeline.phantom.condition_files import read_conditions
from synth_pipeline.study import Study
from tests import shell_words, snippets
from tests.command_line import ROOT, command
from tests.snippets import Snippet

EXECUTED = ("python", "yaml", "text", "shell")
SHELL = [each for each in snippets.of_markdown() if each.kind == "shell"]
SHELL += [each for each in snippets.of_docstrings() if each.kind == "shell"]
SHELL += [*snippets.inline(), *snippets.commented()]
PYTHON = [each for each in snippets.of_markdown() if each.kind == "python"]
PYTHON += [each for each in snippets.of_docstrings() if each.kind == "python"]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Nothing is fetched: what a snippet loads lies here."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("snippets") / "DIR"
    everything = ("--images", "--adapters", "--classifiers")
    ended = command("export", finished.config, folder, *everything, "--root", finished.root)
    assert ended.code in (0, 3), ended.err
    return folder


def execute(snippet: Snippet, folder: Path) -> dict:
    before = Path.cwd()
    os.chdir(folder)
    try:
        names: dict = {}
        exec(compile(snippet.text, snippet.where, "exec"), names)
    finally:
        os.chdir(before)
    return names


def of_card(folder: Path) -> dict:
    """Execute the only snippet of a card in the card's folder, as it is pasted."""
    (found,) = snippets.fenced((folder / "README.md").read_text(), str(folder / "README.md"))
    assert found.kind == "python"
    return execute(found, folder)


def test_every_kind_of_snippet_is_known_here():
    found = snippets.of_markdown() + snippets.of_docstrings()
    assert [each for each in found if each.kind not in EXECUTED] == []
    # A document's own are the ones below; of a card there are those of its templates.
    assert len(PYTHON) >= 4
    assert len(SHELL) >= 60


def test_no_code_in_a_docstring_is_left_unmarked():
    """It would be executed by nobody: write `::` and an empty line before it."""
    assert snippets.unmarked() == []


@pytest.mark.parametrize("snippet", PYTHON, ids=lambda each: each.where)
def test_python_in_documents_and_docstrings_runs(snippet, exported, tmp_path, landmark_model):
    """In a folder with an export called DIR, and with the configurations of the checkout."""
    (tmp_path / "DIR").symlink_to(exported)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert execute(snippet, tmp_path)


@pytest.mark.parametrize(
    "snippet",
    [each for each in snippets.of_markdown() if each.kind == "yaml"],
    ids=lambda each: each.where,
)
def test_yaml_in_documents_is_read_by_what_it_is_for(snippet, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text(snippet.text)
    if "name" in yaml.safe_load(snippet.text):
        assert load_config(file)
    else:
        assert read_conditions(file)


@pytest.mark.parametrize("snippet", SHELL, ids=lambda each: f"{each.where} {each.text[:30]}")
def test_every_command_is_one(snippet, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = shell_words.commands(snippet.text)
    assert found
    for words in found:
        assert shell_words.check(words) == "", words


@pytest.mark.parametrize(
    "line",
    [
        "synth-pipeline runn CONFIG",
        "synth-pipeline run CONFIG --untill sampling",
        "synth-pipeline run configs/nobody.yaml",
        "make nothing",
        "python -m benchmarks.nobody",
        "python -m benchmarks.class_cost --nothing",
        "prefect deploy --everything",
        "prefect worker begin",
        "pip install -e '.[nothing]'",
        "docker compose run --rm nobody plan CONFIG",
        "kubectl apply -f deploy/kubernetes/nobody.yaml",
        "nobody knows",
    ],
)
def test_what_is_no_command_is_found_out(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert [shell_words.check(words) for words in shell_words.commands(line)] != [""]


def test_the_adapters_card(exported):
    """Pasted as it is: it draws, on the embedded base in float32, with the adapter loaded."""
    names = of_card(min((exported / "adapters").iterdir()))
    assert names["image"].size == (128, 128)
    assert any("lora_" in name for name, _ in names["pipeline"].unet.named_parameters())


def test_the_images_card(exported):
    images = of_card(exported / "images")["images"]
    assert len(images) == len(list((exported / "images").rglob("*.png")))
    assert images.features["label"].names == sorted(set(images.features["label"].names))


def test_the_classifiers_cards(exported):
    for fold in sorted((exported / "classifiers").glob("*/fold-1")):
        names = of_card(fold)
        assert len(names["labels"]) == names["model"].num_classes == 3


def test_the_card_of_a_classifier_that_timm_does_not_know_by_itself(finished, tmp_path):
    shutil.copytree(finished.root / "store", tmp_path / "store")
    settings = ["recognition.head=se", "recognition.regimes=[real]"]
    study = Study(load_config(finished.config, settings), tmp_path)
    study.make(study.cases())
    classes = list(study.case_set.classes)
    for node in [*study.backbone_nodes(classes, "test_resnet"), study.scores(classes)]:
        study.make(node)
    export(study, tmp_path / "out", kinds=["classifiers"], classes=classes)
    (fold, *_) = sorted((tmp_path / "out" / "classifiers").glob("*/fold-1"))
    assert "synth_pipeline.heads" in (fold / "README.md").read_text()
    assert of_card(fold)["labels"] == classes


def _in_half_precision(base: Path) -> None:
    """Only under the variant's names, as many repositories have it."""
    for path in [*base.glob("unet/*.safetensors"), *base.glob("text_encoder/*.safetensors")]:
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))


@pytest.mark.parametrize("kind", ["folder", "fp16", "vae", "hub"])
def test_the_adapters_card_names_every_kind_of_base(
    kind, finished, exported, tmp_path, monkeypatch
):
    """The embedded base again, as a folder called otherwise, in parts, and as a hub's."""
    from synth_pipeline.adapter_snippet import snippet, where

    commit = "0123456789abcdef0123456789abcdef01234567"
    here = tmp_path / "models" / "our base"
    if kind == "hub":
        here = tmp_path / "hub" / "models--owner--name" / "snapshots" / commit
        refs = here.parent.parent / "refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text(commit)
    shutil.copytree(base_model.EMBEDDED_FOLDER, here)
    if kind == "fp16":
        _in_half_precision(here)
    changes = [f"dreambooth.base_model={'owner/name' if kind == 'hub' else here}"]
    changes += [f"dreambooth.base_vae={here / 'vae'}"] if kind == "vae" else []
    study = Study(load_config(finished.config, changes), finished.root)
    told = where(study.config, study.base)
    code = snippet(study.config, study.base, 'photo of a "quoted" child')
    assert str(tmp_path) not in told + code
    assert ("our base" in told) == (kind != "hub")
    assert (f"owner/name@{commit}" in told) == (kind == "hub")
    folder = tmp_path / "card"
    shutil.copytree(min((exported / "adapters").iterdir()), folder)
    for name, place in (("our base", here), ("vae", here / "vae")):
        (folder / name).symlink_to(place)
    names = execute(Snippet("python", code, kind), folder)
    assert names["image"].size == (128, 128)
    assert str(names["pipeline"].text_encoder.dtype) == "torch.float32"
