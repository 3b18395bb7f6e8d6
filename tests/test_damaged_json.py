"""JSON files of ours that somebody has damaged: one sentence that names the file."""

import json
import shutil

import pytest

from flows.cli import WRONG_INPUT, main
from flows.server import server_file
from synth_pipeline.errors import InputError
from synth_pipeline.json_files import parse_object
from synth_pipeline.manifest import parse
from synth_pipeline.registry import Registry

DAMAGED = [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b"[" * 100_000, b"9" * 5_000]


@pytest.mark.parametrize("content", DAMAGED)
def test_every_damage_is_a_value_error(content):
    with pytest.raises(ValueError):
        parse_object(content)
    assert parse(content) is None


@pytest.mark.parametrize(
    "content", [*DAMAGED, b'{"url": 5, "secret": "a"}', b'{"url": "http://x"}']
)
def test_the_file_that_up_left(tmp_path, content, finished, capsys, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    file = server_file(tmp_path)
    file.parent.mkdir()
    file.write_bytes(content)
    arguments = ("run", finished.config, "--root", tmp_path, "--engine", "workers")
    assert main([str(each) for each in arguments]) == WRONG_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{file} is damaged; stop `synth-pipeline up`" in said


@pytest.mark.parametrize("content", DAMAGED)
def test_the_registrys_index(tmp_path, content):
    (tmp_path / "cases.jsonl").write_bytes(content + b"\n" + content)
    with pytest.raises(InputError, match="changed or cut short"):
        _ = Registry(tmp_path).entries


@pytest.mark.parametrize("content", [*DAMAGED, b'{"count": 1e999}', b'{"count": -7}', b"{}"])
def test_what_was_announced(tmp_path, content):
    (tmp_path / "announced.json").write_bytes(content)
    assert Registry(tmp_path)._announced() == 0


@pytest.mark.parametrize("content", [*DAMAGED, b'{"noonan": 5}'])
@pytest.mark.parametrize("verb", ["report", "export"])
def test_the_list_of_failed_classes(finished, tmp_path, capsys, content, verb):
    folder = tmp_path / "root" / "studies" / "small"
    folder.mkdir(parents=True)
    (tmp_path / "root" / "store").symlink_to(finished.root / "store")
    (folder / "failed.json").write_bytes(content)
    more = [tmp_path / "out", "--images"] if verb == "export" else []
    arguments = (verb, finished.config, *more, "--root", tmp_path / "root")
    assert main([str(each) for each in arguments]) == WRONG_INPUT
    said = capsys.readouterr().err.splitlines()
    assert f"{folder / 'failed.json'} is damaged; run the study again" in said[-1]


@pytest.mark.parametrize("content", [*DAMAGED, b"{}", b'{"scores": 5, "classes": [1]}'])
def test_a_study_of_before(finished, tmp_path, capsys, content):
    folder = tmp_path / "root" / "studies" / "small"
    shutil.copytree(finished.root / "studies" / "small", folder)
    (tmp_path / "root" / "store").symlink_to(finished.root / "store")
    (folder / "history" / "0001" / "study.json").write_bytes(content)
    arguments = ("report", finished.config, "--root", tmp_path / "root")
    assert main([str(each) for each in arguments]) == WRONG_INPUT
    assert f"{folder / 'history' / '0001'} is damaged" in capsys.readouterr().err
    json.loads((finished.root / "studies" / "small" / "failed.json").read_bytes())
