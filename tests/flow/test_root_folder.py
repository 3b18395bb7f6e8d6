"""A root that cannot be used, a study that is being run, and a disk that fills up in the middle."""

import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from flows.cli import main
from flows.locking import only_run
from tests.command_line import command


@pytest.fixture
def told(capsys):
    """Run a command in this process; gives its exit code and its one sentence."""
    umask = os.umask(0o022)

    def run(*arguments: object) -> tuple[int, str]:
        code = main([*map(str, arguments)])
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert len(message.splitlines()) == 1, message
        return code, message

    yield run
    os.umask(umask)


COMMANDS = (
    ("run", "CONFIG"),
    ("plan", "CONFIG"),
    ("report", "CONFIG"),
    ("export", "CONFIG", "OUT", "--images"),
    ("cases", "check", "CONFIG"),
    ("cases", "import", "CONFIG"),
    ("cases", "list", "CONFIG"),
    ("up",),
)


def spoil(place: Path) -> dict[str, Path]:
    """Roots that cannot be one, each with what is said of it."""
    (place / "file").write_text("x")
    (place / "nowhere").symlink_to(place / "nothing")
    for name, below in (("a", "store"), ("b", "studies"), ("c", "prefect")):
        (place / name).mkdir()
        (place / name / below).write_text("x")
    (place / "d" / "studies").mkdir(parents=True)
    (place / "d" / "studies" / "small").symlink_to("nothing")
    return {
        "file is a file": place / "file",
        "file is a file ": place / "file" / "below",
        "leads nowhere": place / "nowhere",
        "too long": place / ("n" * 256),
        "store is a file": place / "a",
        "studies is a file": place / "b",
        "prefect is a file": place / "c",
        "small is a link that leads nowhere": place / "d",
    }


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_root_that_cannot_be_one(arguments, told, write_config, phantoms, tmp_path):
    config, out = write_config(phantoms), tmp_path / "out"
    names = {"CONFIG": config, "OUT": out}
    of_a_study = "CONFIG" in arguments and arguments[0] != "cases"
    roots = spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for why, root in roots.items():
        if "small" in why and not of_a_study:
            continue
        code, message = told(*(names.get(each, each) for each in arguments), "--root", root)
        assert code == 2, why
        assert why.strip() in message
    assert sorted(tmp_path.rglob("*")) == before


def test_places_of_an_export(told, finished, tmp_path):
    spoil(tmp_path)
    for name, why in {
        "file": "is a file",
        "file/below": "is a file",
        "nowhere": "leads nowhere",
        "nowhere/below": "leads nowhere",
        "n" * 256: "too long",
    }.items():
        out = ("export", finished.config, tmp_path / name, "--images", "--root", finished.root)
        code, message = told(*out)
        assert (code, why in message) == (2, True), message


def test_a_full_disk_is_told_before_anything_is_written(told, write_config, phantoms, tmp_path):
    place = small_disk(tmp_path, "8m")
    try:
        for arguments in (("run",), ("report",), ("cases", "check")):
            code, message = told(*arguments, write_config(phantoms), "--root", place / "root")
            assert code == 1
            assert "8 MB left" in message
        code, message = told("phantom", "make", place / "phantoms")
        assert code == 1
        assert not list(place.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    shutil.copytree(finished.root, tmp_path / "root")
    return tmp_path / "root"


def test_reports_and_exports_of_what_is_not_there(told, finished, copied, tmp_path):
    report = ("report", finished.config, "--root", copied)
    export = ("export", finished.config, tmp_path / "out", "--images", "--root", copied)
    with only_run(copied / "studies" / "small"):
        code, message = told(*report)
        assert code == 2
        assert "being run by another process" in message
    for stage in ("memorisation", "scores", "copies", "sampling", "cases"):
        shutil.rmtree(copied / "store" / stage)
        for arguments in (report, export):
            if (stage, arguments) == ("scores", export):
                continue  # images need none
            code, message = told(*arguments)
            assert code == 2, stage
            assert "finished" in message
            assert "run" in message
        assert not (tmp_path / "out").exists()


KILLED = """
import os, signal
from synth_pipeline import export_images
real = export_images.write
def write(*arguments, **more):
    real(*arguments, **more)
    os.kill(os.getpid(), signal.SIGKILL)
export_images.write = write
"""


def test_a_half_made_export_goes_with_the_next(finished, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(KILLED)
    export = ("export", finished.config, tmp_path / "out", "--images", "--root", finished.root)
    assert command(*export, also_import=tmp_path).code == -9
    (tmp_path / "sitecustomize.py").unlink()
    assert [path.name[:11] for path in tmp_path.glob(".*")] == [".half-made-"]
    ended = command(*export)
    assert ended.code == 0, ended.err
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"out"}
    assert not list((tmp_path / "out").rglob(".*"))


LEFT = (
    "studies/small/.config.resolved.yaml-abcdefgh",
    "studies/small/.report.html-abcdefgh",
    "studies/small/..probe-abcdefgh",
    "studies/other/.failed.json-abcdefgh",
    "prefect/.server.json-abcdefgh",
    "registry/.announced.json-abcdefgh",
    "quarantine/.quarantine.parquet-abcdefgh",
    ".scratch/.half-made-12345678/.held",
    ".scratch/.half-made-12345678/cases/images/face.png",
    "store/sampling/.new-0123-abcdefgh/x.png",
)


def test_a_root_is_swept_and_made_private(finished, copied):
    """What is there of a killed run and of an older version, and is asked for again."""
    for name in LEFT:
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        (copied / name).write_text("left")
    half = copied / "studies" / "small" / "history" / ".new"
    half.mkdir()
    for path in (copied, *copied.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    ended = command("report", finished.config, "--root", copied)
    assert ended.code == 0, ended.err
    assert not [name for name in LEFT if (copied / name).exists()]
    assert not half.exists()
    open_to_others = [
        path
        for path in (copied, *copied.rglob("*"))
        if stat.S_IMODE(path.lstat().st_mode) & 0o077 and not path.is_symlink()
    ]
    assert open_to_others == []


def test_a_run_is_private_whatever_the_umask(finished):
    for path in (finished.root, *finished.root.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def small_disk(tmp_path: Path, size: str) -> Path:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", place]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    return place


def test_a_disk_that_fills_up_ends_the_run_in_one_sentence(finished, tmp_path):
    place = small_disk(tmp_path, "100m")
    ended = []
    try:
        root = place / "root"
        shutil.copytree(finished.root, root)
        shutil.rmtree(root / "store" / "dreambooth")

        def run() -> None:
            ended.append(command("run", finished.config, "--root", root))

        running = threading.Thread(target=run)
        running.start()
        # The first folder of a stage is there: from now on nothing more has room.
        while running.is_alive() and not list(root.glob("store/dreambooth/.new-*")):
            running.join(0.02)
        with (place / "ballast").open("wb") as ballast, pytest.raises(OSError, match="No space"):
            while True:
                ballast.write(bytes(1 << 16))
        running.join()
        code, err = ended[0].code, ended[0].err
        assert code == 1, err
        assert "Traceback" not in err
        assert "Error" not in err
        assert "class 2/3" not in err  # no other class has more room
        sentences = [line for line in err.splitlines() if line.startswith("synth-pipeline: ")]
        assert len(sentences) == 1, err
        assert "run the same command again: what was finished is kept" in sentences[0]
        assert not list(root.glob("store/*/.new-*"))
        (place / "ballast").unlink()
        assert "cached  landmarks" in command("plan", finished.config, "--root", root).out
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
