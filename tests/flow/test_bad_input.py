"""What a user can get wrong: one sentence, the right exit code, nothing half-written."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from flows.cli import main
from tests.command_line import command


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command in this process; it must end with 2, one sentence, and no new file."""

    def refuse(*arguments: object) -> str:
        root = tmp_path / "root"
        code = main([*map(str, arguments), "--root", str(root)])
        message = capsys.readouterr().err
        assert code == 2, message
        assert not root.exists(), "something was written"
        assert len(message.splitlines()) == 1, message
        assert message.startswith("synth-pipeline: ")
        assert "Traceback" not in message
        return message

    return refuse


def photo(path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def noise_folder(tmp_path):
    """Two classes of photos without a face."""
    for number in range(6):
        photo(tmp_path / "photos" / "ab"[number % 2] / f"Jane Doe {number}.png", number)
    return tmp_path / "photos"


FOLDERS = ("format: csv", "format: imagefolder")


@pytest.mark.parametrize("verb", [["run"], ["plan"], ["cases", "import"]])
def test_empty_folder(refused, write_config, tmp_path, verb):
    (tmp_path / "photos").mkdir()
    assert "holds no photo" in refused(*verb, write_config(tmp_path / "photos", *FOLDERS))


def test_folder_that_is_not_there(refused, write_config, tmp_path):
    assert "does not exist" in refused("run", write_config(tmp_path / "nowhere", *FOLDERS))


def test_folder_without_class_folders(refused, write_config, tmp_path):
    photo(tmp_path / "photos" / "one.png", 0)
    message = refused("run", write_config(tmp_path / "photos", *FOLDERS))
    assert "no class folders" in message


def test_one_class(refused, write_config, tmp_path):
    for number in range(3):
        photo(tmp_path / "photos" / "only" / f"{number}.png", number)
    assert "needs two" in refused("run", write_config(tmp_path / "photos", *FOLDERS))


def test_configuration_that_is_not_there(refused, tmp_path):
    assert "name a YAML file" in refused("run", tmp_path / "no.yaml")


def test_unknown_keys_are_all_named(refused, write_config, phantoms):
    config = write_config(phantoms, "seed: 3", "seed: many\nsede: 3")
    message = refused("run", config, "--set", "sampling.stpes=3")
    assert "sede is not a known key" in message
    assert "sampling.stpes is not a known key" in message
    assert "seed: " in message


def test_override_without_a_value(refused, write_config, phantoms):
    assert "not of the form" in refused("run", write_config(phantoms), "--set", "seed")


def test_base_model_that_is_not_there(refused, write_config, phantoms, tmp_path):
    base = f"dreambooth.base_model={tmp_path / 'nowhere'}"
    assert str(tmp_path / "nowhere") in refused("run", write_config(phantoms), "--set", base)


@pytest.mark.parametrize("wish", ["precision=fp16", "optimiser=adamw-8bit"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(refused, write_config, phantoms, wish):
    config = write_config(phantoms)
    told = refused("run", config, "--set", f"dreambooth.{wish}")
    assert wish.split("=")[1] in told
    assert "NVIDIA GPU" in told


def test_a_certificate_that_is_not_there(refused, write_config, phantoms, tmp_path):
    config = write_config(phantoms)
    place = f"sampling.c2pa_certificate={tmp_path / 'chain.pem'}"
    assert "go together" in refused("run", config, "--set", place)
    both = ("--set", place, "--set", f"sampling.c2pa_key={tmp_path / 'key.pem'}")
    assert "chain.pem cannot be read" in refused("run", config, *both)


def test_unknown_stage_and_backbone(refused, write_config, phantoms):
    config = write_config(phantoms)
    assert "choose one of cases, landmarks" in refused("run", config, "--until", "sleeping")
    message = refused("run", config, "--set", "recognition.backbones=[resnet19]")
    assert "did you mean" in message


def test_scale_beyond_what_is_generated(refused, write_config, phantoms):
    message = refused("run", write_config(phantoms), "--set", "selection.scales=[100]")
    assert "only 18 are generated" in message


def test_report_and_list_before_the_study(refused, write_config, phantoms):
    assert "is not finished" in refused("report", write_config(phantoms))
    assert "first" in refused("cases", "list", write_config(phantoms))


def test_workers_without_a_server(refused, write_config, phantoms, monkeypatch):
    config = write_config(phantoms)
    assert "synth-pipeline up" in refused("run", config, "--engine", "workers")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    told = refused("run", config, "--engine", "workers")
    assert "No Prefect server answers at http://127.0.0.1:1/api" in told


def test_a_second_run_of_the_same_study_is_refused(write_config, phantoms, tmp_path, capsys):
    from filelock import FileLock

    folder = tmp_path / "root" / "studies" / "small"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        code = main(["run", str(write_config(phantoms)), "--root", str(tmp_path / "root")])
    assert code == 2
    assert "another process" in capsys.readouterr().err
    assert not (tmp_path / "root" / "store").exists()


def test_broken_files_are_listed_and_the_study_goes_on(noise_folder, write_config, tmp_path):
    """A class that lost a photo is listed with 3; a class that lost all is left out."""
    (noise_folder / "a" / "Jane Doe notes.jpg").write_text("not a picture")
    (noise_folder / "c").mkdir()
    (noise_folder / "c" / "Jane Doe scan.png").write_bytes(b"\x89PNG but no more")
    ended = command(
        "cases", "import", write_config(noise_folder, *FOLDERS), "--root", tmp_path / "root"
    )
    assert ended.code == 3, ended.err
    assert "class a: 1 of its files cannot be used" in ended.err
    assert "class c: no photo of it can be used" in ended.err
    assert "Jane Doe" not in ended.out + ended.err
    checked = command("cases", "check", write_config(noise_folder, *FOLDERS))
    assert checked.code == 2
    assert "a/Jane Doe notes.jpg: " in checked.out
    assert "c/Jane Doe scan.png: " in checked.out
    assert "8 files: 6 usable, 2 set aside" in checked.out


def test_no_usable_photo_at_all(write_config, tmp_path):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "x.png").write_bytes(b"nothing")
    ended = command("run", write_config(tmp_path / "photos", *FOLDERS), "--root", tmp_path / "root")
    assert ended.code == 2
    assert "Fewer than two classes" in ended.err
    assert "Traceback" not in ended.err
    assert not list((tmp_path / "root" / "store").glob("cases/*"))


def test_a_class_without_a_face_is_listed_while_the_others_finish(finished, write_config, tmp_path):
    """The three classes that are stored already, and one whose photos show no face."""
    source = tmp_path / "photos"
    shutil.copytree(finished.photos, source)
    with (source / "cases.csv").open("a") as table:
        for number in range(3):
            photo(source / f"noise {number}.png", number)
            table.write(f"noise {number}.png,noise,train\n")
    root = tmp_path / "root"
    shutil.copytree(finished.root / "store", root / "store")
    config = write_config(source)
    ended = command("run", config, "--root", root)
    assert ended.code == 3, ended.err
    assert "class noise: " in ended.err
    assert "no face" in ended.err
    page = (root / "studies" / "small" / "report.html").read_text()
    assert "Classes that failed or lost photos" in page
    assert "<strong>noise</strong>" in page
    # Only the import and what the failed class is named in: the other classes are as they were.
    assert "2 stages run" in ended.out
    planned = command("plan", config, "--root", root)
    to_run = [line for line in planned.out.splitlines() if line.startswith("run ")]
    assert to_run
    assert all("noise" in line and "failed last time" in line for line in to_run)


@pytest.mark.parametrize("key", ["ranking.backbone", "copies.backbone"])
def test_a_backbone_that_timm_does_not_have(refused, write_config, noise_folder, key):
    config = write_config(noise_folder, *FOLDERS)
    message = refused("run", config, "--until", "copies", "--set", f"{key}=resnett18")
    assert f"{key}: timm has no model resnett18" in message


def test_a_scale_too_small_for_the_folds_is_refused_before_anything_is_generated(
    refused, phantoms, write_config
):
    config = write_config(phantoms, "folds: 2", "folds: 9")
    assert "6 images in all, too few for recognition.folds=9" in refused("run", config)
