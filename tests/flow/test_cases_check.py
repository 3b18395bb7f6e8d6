"""`cases check`: every file that needs a hand, in the numbers that a run counts with."""

import shutil

import numpy as np
import pytest
from PIL import Image

from flows.cli import main
from synth_pipeline.registry import Registry
from tests.command_line import PATIENT, STUDY


@pytest.fixture
def check(tmp_path, capsys):
    """Runs the command on a source; gives exit code, lines of the output and the error."""
    config = tmp_path / "config.yaml"

    def run(source, format="imagefolder", command="check"):
        text = STUDY.format(source=source).replace("format: csv", f"format: {format}")
        config.write_text(text)
        code = main(["cases", command, str(config), "--root", str(tmp_path / "root")])
        told = capsys.readouterr()
        return code, told.out.splitlines(), told.err

    return run


@pytest.fixture
def source(tmp_path, phantom_files):
    """Two classes of three phantoms each, the second class with a folder for a person."""
    for name, paths in zip("ab", phantom_files.values(), strict=False):
        for number, path in enumerate(paths[:3]):
            target = tmp_path / "in" / name / (PATIENT if name == "b" else "") / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return tmp_path / "in"


def test_all_is_well(check, source):
    (source / "a" / "caption.txt").write_text("a child")
    code, lines, err = check(source)
    assert (code, err) == (0, "")
    assert lines[0] == "Passed over: 1 file beside photos (.txt)."
    assert lines[-1] == "6 files: 6 usable, 0 set aside"


def test_faces_are_looked_for_and_equal_photos_are_not_lost(check, source):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    Image.fromarray(noise).save(source / "b" / PATIENT / "noise.png")
    two = [Image.open(source / name).convert("RGB") for name in ("a/0.png", f"b/{PATIENT}/1.png")]
    crowd = Image.new("RGB", (256, 128))
    for place, image in enumerate(two):
        crowd.paste(image, (128 * place, 0))
    crowd.save(source / "a" / "two.png")
    shutil.copy(source / "a" / "1.png", source / "a" / "again.png")
    (source / "b" / PATIENT / "broken.jpg").write_bytes(b"broken")
    code, lines, _ = check(source)
    assert code == 2
    assert f"b/{PATIENT}/broken.jpg: is no JPEG, PNG, WebP, BMP or TIFF picture" in lines
    assert f"b/{PATIENT}/noise.png: no face was found" in lines
    assert "a/two.png: shows 2 faces; the largest is taken" in lines
    assert lines[-1] == (
        "10 files: 8 usable, 1 set aside, 1 the same as another of their class; "
        "of the usable ones 1 show no face and 1 several"
    )


def test_equal_photos_alone_are_no_fault_as_in_a_run(check, source, tmp_path):
    shutil.copy(source / "a" / "1.png", source / "a" / "again.png")
    code, lines, _ = check(source)
    assert code == 0
    assert lines[-1] == "7 files: 6 usable, 0 set aside, 1 the same as another of their class"


def test_with_one_usable_class_every_file_is_listed_without_advice_to_run_it(check, source):
    for path in (source / "b" / PATIENT).iterdir():
        path.write_bytes(b"broken")
    code, lines, err = check(source)
    assert code == 2
    assert len([line for line in lines if line.startswith(f"b/{PATIENT}/")]) == 3
    assert lines[-1] == "6 files: 3 usable, 3 set aside"
    assert err.startswith("synth-pipeline: Fewer than two classes") and "cases check" not in err


def test_faults_of_a_table_are_named_to_the_owner_alone(check, source):
    (source / "cases.csv").write_text(f"file,class\na/0.png,a\n{PATIENT}.png,b\n\n,b\n")
    code, lines, err = check(source, "csv")
    assert code == 2
    assert lines[0].startswith(f"cases.csv, line 3: {PATIENT}.png: the file it names does not")
    assert lines[1] == "cases.csv, line 5: a value is missing (file)"
    assert "line 3: the file it names does not exist" in err and PATIENT not in err
    code, lines, err = check(source, "csv", "import")
    assert (code, lines) == (2, [])
    assert "line 3: " in err and "line 5: " in err and PATIENT not in err


def test_registered_photos_without_a_face_are_listed_by_their_ids(check, phantom_files, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    images = [Image.fromarray(noise)]
    images += [Image.open(paths[0]).convert("RGB") for paths in phantom_files.values()]
    registry = Registry(tmp_path / "root" / "registry")
    with registry.locked():
        for number, image in enumerate(images):
            registry.add(
                image,
                class_name="ab"[number % 2],
                subject=None,
                arrival=str(number),
                seed=1,
                fraction=0.25,
            )
    code, lines, _ = check("''", "registry")
    assert code == 2
    assert f"a/{registry.entries[0].case_id}: no face was found" in lines
    assert lines[-1] == "4 cases, all as they were registered; 0 set aside"
