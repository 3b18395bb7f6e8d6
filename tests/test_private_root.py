"""Everything under a root is its owner's, whatever the umask and whatever it was before."""

import stat
import tempfile
from pathlib import Path

import pytest

from synth_pipeline.private_root import make_private, scratch, sweep
from tests.command_line import command


def loose(folder: Path) -> list[Path]:
    return [
        path
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


@pytest.fixture
def old_root(tmp_path) -> Path:
    """As versions before left it, under the umask 022."""
    root = tmp_path / "root"
    files = ("store/cases/ab/images/0.png", "studies/s/report.html", "prefect/prefect.db")
    for name in (*files, "prefect/prefect.db-wal", "quarantine/files/x", "registry/cases.jsonl"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return root


def test_an_old_root_is_tightened_and_links_are_not_followed(old_root, tmp_path):
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("x")
    theirs.chmod(0o644)
    (old_root / "studies" / "link").symlink_to(theirs)
    (old_root / "store" / "nowhere").symlink_to("nothing")
    assert make_private(old_root) == 17
    assert loose(old_root) == []
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o644
    assert make_private(old_root) == 0


@pytest.mark.parametrize("share", ["setgid", "sticky", "work", "home"])
def test_a_folder_that_is_more_than_a_root_keeps_its_mode(old_root, share, monkeypatch):
    mode = {"setgid": 0o2775, "sticky": 0o1777}.get(share, 0o755)
    old_root.chmod(mode)
    (old_root / "mine").mkdir(mode=0o755)
    if share == "work":
        monkeypatch.chdir(old_root / "mine")
    if share == "home":
        monkeypatch.setenv("HOME", str(old_root))
    make_private(old_root)
    assert stat.S_IMODE(old_root.stat().st_mode) == mode
    assert loose(old_root / "store") == loose(old_root / "prefect") == []


def test_what_belongs_to_another_user_is_theirs(old_root, nobody):
    """Kubernetes' volumes belong to root; jobs run as somebody else."""
    with tempfile.TemporaryDirectory() as open_place:
        Path(open_place).chmod(0o755)
        root = Path(open_place) / "root"
        old_root.rename(root)
        assert nobody(lambda: (len(list(root.rglob("*"))), make_private(root))) == "(16, 0)"
        assert len(loose(root)) == 17


def test_scratch_is_private_and_leaves_no_new_root(tmp_path):
    root = tmp_path / "new" / "root"
    with scratch(root) as folder:
        assert folder.is_relative_to(root)
        assert loose(root) == []
    assert not root.exists()
    root.mkdir()
    with scratch(root) as folder:
        pass
    assert not folder.exists()


#: Ends itself in the middle of a look at photos: when all are imported, or by the polite signal.
KILLED = """
import os, signal
from synth_pipeline import cases
real = cases.run
def run(*arguments, **more):
    done = real(*arguments, **more)
    os.kill(os.getpid(), signal.{signal})
    return done
cases.run = run
"""


@pytest.mark.parametrize("ended_by", ["SIGKILL", "SIGTERM"])
def test_a_look_at_photos_that_is_killed_leaves_no_face(phantoms, tmp_path, ended_by, monkeypatch):
    temporary, root = tmp_path / "tmp", tmp_path / "root"
    temporary.mkdir()
    root.mkdir(mode=0o755)
    monkeypatch.setenv("TMPDIR", str(temporary))
    config = tmp_path / "a.yaml"
    config.write_text(f"name: a\ncases:\n  format: csv\n  source: {phantoms}\n")
    (tmp_path / "sitecustomize.py").write_text(KILLED.format(signal=ended_by))
    ended = command("cases", "check", config, "--root", root, also_import=tmp_path)
    assert ended.code != 0
    assert not list(temporary.rglob("*.png"))
    faces = list(root.rglob("*.png"))
    assert ended_by == "SIGTERM" or faces  # the polite signal may leave time to tidy up
    assert loose(root) == []
    assert sweep(root) == (1 if faces else 0)
    assert not list(root.rglob("*.png"))
