"""A path that is no folder and cannot become one is told before anything is written."""

import tempfile
from pathlib import Path

import pytest

from synth_pipeline.errors import InputError
from synth_pipeline.folder_check import check_folder


def make(place: Path) -> dict[str, Path]:
    (place / "file").write_text("x")
    (place / "nowhere").symlink_to(place / "nothing")
    (place / "itself").symlink_to("itself")
    (place / "to-file").symlink_to("file")
    return {
        "is a file": place / "file",
        "is a file ": place / "file" / "below" / "it",
        "is a file  ": place / "to-file",
        "leads nowhere": place / "nowhere",
        "leads nowhere ": place / "nowhere" / "below",
        "symbolic links": place / "itself",
        "too long": place / ("n" * 256),
        "too long ": place / ("ü" * 128),
        "too long  ": place.joinpath(*["n" * 200] * 20),
    }


def test_each_is_one_sentence(tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for why, path in make(tmp_path).items():
        for written in (True, False):
            with pytest.raises(InputError, match=why.strip()) as error:
                check_folder(path, "--root", written=written)
            assert "\n" not in str(error.value)
    assert len(sorted(tmp_path.rglob("*"))) == len(before) + 4


def test_folders_that_are_there_or_can_be(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for name in ("there", "link", "link/new", "new", "new/below", "ä" * 127, "n" * 255):
        check_folder(tmp_path / name, "--root", written=True)


def test_rights(nobody):
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        for mode in (0o700, 0o755, 0o711, 0o777):
            (place / oct(mode)).mkdir()
            (place / oct(mode)).chmod(mode)

        def asked(name: str, written: bool) -> str:
            return nobody(lambda: check_folder(place / name, "--root", written=written))

        for name in ("0o700", "0o700/new", "0o755", "0o755/new", "new"):
            told = asked(name, True)
            assert told.startswith("InputError: --root")
            assert "permission denied" in told
        assert asked("0o777", True) == asked("0o777/new", True) == "None"
        assert "permission denied" in asked("0o700", False)
        assert "permission denied" in asked("0o711", False)
        assert asked("0o755", False) == asked("0o711/new", False) == "None"
