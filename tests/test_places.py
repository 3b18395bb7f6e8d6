"""Files and folders that a user names: taken as they are given, wherever the work is done."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.cli import WRONG_INPUT, main
from flows.running import _lay_down
from synth_pipeline import backbone_weights, base_model
from synth_pipeline.config import load_config
from synth_pipeline.phantom.dataset import make_dataset
from synth_pipeline.publishing import public_config
from synth_pipeline.study import Study
from tasks.running import open_study
from tests.command_line import command

NAMES = [
    *("photos #2", "a: b", "a:b", "'quoted'", '"quoted"', "it's", 'say "a"', "'a' and 'b'", "- x"),
    *("[x]", "{x}", "{x", "*x", "&x", "!x", "!!int x", "%x", "@x", "`x`", "|", ">", "? x", "# x"),
    *("null", "yes", "2024-01-01", "2024-02-30", "12:30", "1e3", "007", "0x1f", " x", "x ", "x=y"),
    *("a\tb", "a, b", "...", "---", "--- x", "x\\n", "übung", "写真", "~nobody-is-called-so"),
]
#: Every key that names a file or a folder.
KEYS = (
    "cases.source",
    "cases.inbox",
    "dreambooth.base_model",
    "dreambooth.base_vae",
    "sampling.c2pa_certificate",
    "sampling.c2pa_key",
    "recognition.pretrained",
)


@pytest.fixture
def study_file(tmp_path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: x\ncases: {source: a}\nsampling: {c2pa_certificate: a.pem, c2pa_key: b.pem}\n"
    )
    return path


def value(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_as_it_is_given(study_file, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name.split(" ")[0]).mkdir(exist_ok=True)
    config = load_config(study_file, [f"cases.source={name}"])
    assert config.cases.source == name
    if name not in ("null", "yes"):
        for key in KEYS:
            assert value(load_config(study_file, [f"{key}={name}"]), key) == name
    long = f"{tmp_path}/{name}"
    assert load_config(study_file, [f"cases.source={long}"]).cases.source == long


def test_a_folder_beside_is_not_taken_instead(tmp_path, phantom_files, monkeypatch, capsys):
    """The issue's own: `in/photos` lies there, too."""
    classes = list(phantom_files.items())
    for folder, count in (("photos", 1), ("photos #2", 3)):
        for name, files in classes[:2]:
            (tmp_path / "in" / folder / name).mkdir(parents=True)
            for file in files[:count]:
                os.link(file, tmp_path / "in" / folder / name / file.name)
    (tmp_path / "s.yaml").write_text("name: s\ncases: {source: a}\n")
    monkeypatch.chdir(tmp_path)
    main(["cases", "check", "s.yaml", "--set", "cases.source=in/photos #2"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("6 files")


def test_quotes_around_a_text_are_yaml_where_nothing_is_called_so(study_file):
    for raw in ("'in/photos #2'", '"in/photos #2"'):
        assert load_config(study_file, [f"cases.source={raw}"]).cases.source == "in/photos #2"
    prompt = 'a "{class_name}" child: #1'
    changed = load_config(study_file, [f"dreambooth.instance_prompt={prompt}"])
    assert changed.dreambooth.instance_prompt == prompt
    assert load_config(study_file, ["name=2024"]).name == "2024"


def test_what_takes_more_than_a_text_is_yaml(study_file):
    for raw, wanted in (("true", True), ("no", False), ("embedded", "embedded")):
        config = load_config(study_file, [f"recognition.pretrained={raw}"])
        assert config.recognition.pretrained == wanted
    for raw in ("", "null", "~"):
        config = load_config(study_file, ["dreambooth.base_vae=x", f"dreambooth.base_vae={raw}"])
        assert config.dreambooth.base_vae is None
    assert load_config(study_file, ["seed=7 # lucky"]).seed == 7


@pytest.mark.parametrize("key", KEYS)
def test_the_home_folder_is_meant_by_a_tilde(tmp_path, study_file, monkeypatch, key):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert value(load_config(study_file, [f"{key}=~/x y"]), key) == f"{tmp_path}/x y"
    section, name = key.split(".")
    study_file.write_text(
        f"name: x\n{section}:\n  {name}: ~/x y\n"
        + ("" if section == "cases" and name == "source" else "  # no source\n")
    )
    more = [] if key == "cases.source" else ["cases.source=a"]
    both = {"c2pa_key": "c2pa_certificate", "c2pa_certificate": "c2pa_key"}
    more += [f"sampling.{both[name]}=~/other"] if name in both else []
    assert value(load_config(study_file, more), key) == f"{tmp_path}/x y"


def test_on_the_command_line_too(tmp_path, monkeypatch, capsys):
    """`--root=~/x`: a shell replaces only a tilde that begins a word."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("name: s\ncases: {format: registry}\n")
    assert main(["cases", "list", "~/s.yaml", "--root=~/results"]) == WRONG_INPUT
    assert str(tmp_path / "results") in capsys.readouterr().err
    arguments = ["cases", "ingest", "s.yaml", "--inbox=~/in", "--root=~/results"]
    assert main(arguments) == WRONG_INPUT
    assert f"The inbox {tmp_path}/in is no folder" in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("name", ["my study.yaml", "it's #2.yaml", "a&b;c.yaml"])
@pytest.mark.parametrize("verb", ["report", "list", "export", "ingest"])
def test_a_command_that_is_advised_can_be_pasted(tmp_path, monkeypatch, capsys, name, verb):
    monkeypatch.chdir(tmp_path)
    kind = "registry" if verb == "ingest" else "phantom"
    (tmp_path / name).write_text(f"name: s\ncases: {{format: {kind}}}\n")
    words = {"list": ["cases", "list"], "export": ["export"], "report": ["report"]}
    if verb == "ingest":
        (tmp_path / "in" / "a").mkdir(parents=True)
        (tmp_path / "in" / "a" / "x.png").write_bytes(b"no picture")
        main(["cases", "ingest", name, "--inbox", "in", "--settle", "0"])
    else:
        more = ["out", "--images"] if verb == "export" else []
        assert main([*words[verb], name, *more]) == WRONG_INPUT
    told = capsys.readouterr()
    (advised,) = re.findall(r"`(synth-pipeline [^`]+)`", told.out + told.err)
    assert shlex.split(advised)[-1] == name


@pytest.mark.parametrize("settle", ["nan", "-1", "inf", "1e9", "soon"])
def test_a_time_that_is_none(tmp_path, capsys, settle):
    with pytest.raises(SystemExit) as stopped:
        main(["cases", "ingest", "s.yaml", f"--settle={settle}"])
    assert stopped.value.code == WRONG_INPUT
    assert "--settle" in capsys.readouterr().err


@dataclass(frozen=True)
class LaidDown:
    """A study whose every place was given relative to its folder, and where it was laid down."""

    study: Study
    root: Path
    folder: Path


@pytest.fixture
def laid_down(tmp_path, landmark_model, monkeypatch) -> LaidDown:
    here = tmp_path / "here"
    (here / "models").mkdir(parents=True)
    make_dataset(
        here / "in" / "photos #2",
        classes=2,
        per_class=1,
        test_per_class=1,
        size_px=64,
        seed=1,
        mesh_path=landmark_model,
    )
    base = Path(base_model.__file__).parent / "assets" / "phantom-base"
    (here / "models" / "base").symlink_to(base)
    (here / "models" / "weights").symlink_to(backbone_weights.EMBEDDED)
    (here / "s.yaml").write_text(
        "name: s\nengine: workers\ncases: {format: csv, source: 'in/photos #2', inbox: new}\n"
        "dreambooth: {base_model: models/base, base_vae: models/base/vae}\n"
        "recognition: {backbones: [mobilenetv3_small_075], pretrained: models/weights}\n"
    )
    monkeypatch.chdir(here)
    config = load_config(here / "s.yaml")
    study = Study(config, tmp_path / "root")
    study.folder.mkdir(parents=True)
    _lay_down(study, config)
    return LaidDown(study, tmp_path / "root", here)


def described(study: Study) -> list:
    classes = study.expected_classes()
    return [(node.stage, node.label, dict(node.parameters)) for node in study.nodes(classes)]


def test_a_worker_in_another_folder_finds_everything(laid_down, tmp_path, monkeypatch):
    known = described(laid_down.study)
    shown = public_config(laid_down.study)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    opened = open_study(str(laid_down.root), "s")
    assert described(opened) == known
    assert opened.base.folder == laid_down.folder / "models" / "base"
    assert opened.config.cases.inbox == str(laid_down.folder / "new")
    # The report is keyed by what it shows, so it must not depend on who renders it.
    assert public_config(opened) == shown
    assert str(tmp_path) not in shown
    assert "photos #2" not in shown
    assert "(on this machine) base" in shown


def test_places_are_in_no_key(laid_down, tmp_path, monkeypatch):
    """The same photos and weights under other paths: every stage stays cached."""
    known = described(laid_down.study)
    moved = tmp_path / "moved"
    laid_down.folder.rename(moved)
    monkeypatch.chdir(moved / "models")
    places = {
        "cases.source": "../in/photos #2",
        "dreambooth.base_model": "base",
        "dreambooth.base_vae": str(moved / "models" / "base" / "vae"),
        "recognition.pretrained": "weights",
    }
    config = load_config(moved / "s.yaml", [f"{key}={place}" for key, place in places.items()])
    assert described(Study(config, tmp_path / "root2")) == known


def test_a_hubs_id_and_an_address_are_no_places(tmp_path, monkeypatch, study_file):
    monkeypatch.chdir(tmp_path)
    changes = ["dreambooth.base_model=owner/name", "cases.inbox=s3://bucket/in"]
    config = load_config(study_file, [*changes, "recognition.pretrained=embedded"])
    study = Study(config, tmp_path / "root")
    study.folder.mkdir(parents=True)
    _lay_down(study, config)
    opened = open_study(str(tmp_path / "root"), "x").config
    assert opened.dreambooth.base_model == "owner/name"
    assert opened.cases.inbox == "s3://bucket/in"
    assert opened.recognition.pretrained == "embedded"
    assert opened.sampling.c2pa_key == str(tmp_path / "b.pem")
    shown = public_config(study)
    assert "owner/name" in shown
    assert "b.pem" not in shown


def test_a_root_of_any_characters_holds_everything(tmp_path):
    """`?` would end the path in the address of Prefect's database, and `%` begin a character."""
    (tmp_path / "s.yaml").write_text(
        "name: s\ncases:\n  format: phantom\n"
        "  phantom: {classes: 2, per_class: 1, test_per_class: 1, size_px: 64}\n"
    )
    root = tmp_path / "a?b #c%41 d;e&f=1 é:memory:"
    done = command("run", tmp_path / "s.yaml", "--root", root, "--until", "cases")
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"s.yaml", root.name}
    assert (root / "prefect" / "prefect.db").stat().st_size > 0


def test_a_root_that_prefect_cannot_write_down(tmp_path, capsys):
    root = tmp_path / os.fsdecode(b"a\xff")
    (tmp_path / "s.yaml").write_text("name: s\ncases: {format: phantom}\n")
    assert main(["run", str(tmp_path / "s.yaml"), "--root", str(root)]) == WRONG_INPUT
    assert "this is not UTF-8; choose another folder" in capsys.readouterr().err
    assert not root.exists()
