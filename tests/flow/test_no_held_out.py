"""No photo held out: `run` and `plan` say so before the fine-tuning, whenever it can be known."""

import shutil

import pytest
from PIL import Image

from flows.cli import main
from tests.command_line import command


@pytest.fixture
def config(phantom_files, write_config, tmp_path):
    """A study of one photo of each class."""
    for name, files in phantom_files.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        shutil.copy(files[0], tmp_path / "photos" / name / "one.png")
    return write_config(tmp_path / "photos", "format: csv", "format: imagefolder")


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_one_photo_a_class_is_told_before_anything_is_written(config, tmp_path, capsys, verb):
    assert main([verb, str(config), "--root", str(tmp_path / "root")]) == 2
    told = capsys.readouterr().err
    assert "No photo is held out" in told
    assert "add photos of a second person" in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "root").exists()


def test_what_the_import_finds_ends_the_run_before_the_fine_tuning(config, tmp_path):
    """Each class has two files, of one picture."""
    for file in sorted((tmp_path / "photos").rglob("one.png")):
        with Image.open(file) as picture:
            picture.save(file.with_name("two.png"), compress_level=1)
    root = tmp_path / "root"
    ended = command("run", config, "--root", root)
    assert ended.code == 2, ended.err
    assert "No photo is held out" in ended.err
    assert sorted(p.name for p in (root / "store").iterdir() if p.name[0] != ".") == ["cases"]
