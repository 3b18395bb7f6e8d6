"""Proxies, other people's Prefect settings and a broken database lie around: a run minds none."""

import contextlib
import http.server
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.run_history import set_aside_if_unusable
from flows.server import find_server
from flows.surroundings import bypass_proxies_here, check_proxies
from synth_pipeline.errors import InputError
from tests.command_line import ROOT, STUDY, Ended

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


class _Stranger(http.server.BaseHTTPRequestHandler):
    """Somebody else's server, or a proxy: notes every request and refuses it."""

    def _note(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.server.asked.append((self.command, self.path, self.rfile.read(length)))
        self.send_error(502)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_CONNECT = _note

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def stranger():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stranger) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def ran(stranger, phantoms, landmark_model, tmp_path_factory) -> tuple[Ended, Path]:
    """A study's cases, imported in the midst of all that can lie around; and its root."""
    place = tmp_path_factory.mktemp("around")
    foreign = f"http://127.0.0.1:{stranger.server_address[1]}"
    (place / "home" / ".prefect").mkdir(parents=True)
    (place / "home" / ".prefect" / "profiles.toml").write_text(
        f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{foreign}/profile/api"\n'
    )
    models = place / "home" / ".cache" / "synth-pipeline"
    models.mkdir(parents=True)
    shutil.copy(landmark_model, models)
    folder = place / "folder"
    folder.mkdir()
    elsewhere = f"sqlite+aiosqlite:///{place}/elsewhere.db"
    (folder / "prefect.toml").write_text(
        f'[api]\nurl = "{foreign}/toml/api"\n[server.database]\nconnection_url = "{elsewhere}"\n'
    )
    (folder / "pyproject.toml").write_text("[tool.prefect]\n[[[ not even TOML")
    (folder / ".env").write_bytes(
        f"PREFECT_API_URL={foreign}/dotenv/api\nX=\xff\n".encode("latin-1")
    )
    root = place / "root"
    (root / "prefect").mkdir(parents=True)
    (root / "prefect" / "prefect.db").write_bytes(b"SQLite format 3\0" + b"no more" * 1000)
    config = folder / "small.yaml"
    config.write_text(STUDY.format(source=phantoms))
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", str(config), "--until", "cases"]
        + ["--root", str(root)],
        cwd=folder,
        env={
            **os.environ,
            **dict.fromkeys(PROXIES, foreign),
            "NO_PROXY": "hospital.example",
            "HOME": str(place / "home"),
            "PREFECT_API_URL": f"{foreign}/environment/api",
            "prefect_api_key": "somebody's",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": elsewhere,
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-Team": "other"}',
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr), root


def test_only_its_own_server_is_used(ran, stranger):
    done, root = ran
    assert done.code == 0, done.out + done.err
    assert stranger.asked == []
    assert not (root.parent / "elsewhere.db").exists()
    with contextlib.closing(sqlite3.connect(root / "prefect" / "prefect.db")) as database:
        names = {row[0] for row in database.execute("SELECT name FROM flow_run")}
    assert names == {"study small"}


def test_a_damaged_database_is_set_aside_and_named(ran):
    done, root = ran
    told = [line for line in done.err.splitlines() if "prefect.db" in line]
    assert len(told) == 1 and f"{root}/prefect/prefect.db is damaged" in told[0]
    assert "only the history of runs" in told[0]
    kept = root / "prefect" / "prefect.db.set-aside-1"
    assert kept.read_bytes().endswith(b"no more")


@pytest.fixture
def home(ran, tmp_path) -> Path:
    """A folder with a database that Prefect has made, and a run in it."""
    source = ran[1] / "prefect" / "prefect.db"
    with (
        contextlib.closing(sqlite3.connect(source)) as from_,
        contextlib.closing(sqlite3.connect(tmp_path / "prefect.db")) as to,
    ):
        from_.backup(to)
    return tmp_path


def _write_over(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 3 // 4096 * 4096)
        stream.write(b"\xaa" * 8192)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _sql(statement: str):
    def change(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA foreign_keys = OFF")
            database.executescript(statement)

    return change


def _instead(make):
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


UNUSABLE = {
    "overwritten": (_write_over, "is damaged"),
    "cut short": (_cut, "is damaged"),
    "another file": (_instead(lambda path: path.write_text("notes")), "is damaged"),
    "a folder": (_instead(lambda path: path.mkdir()), "is no file"),
    "a pipe": (_instead(lambda path: os.mkfifo(path)), "is no file"),
    "a link to nothing": (_instead(lambda path: path.symlink_to("gone")), "is no file"),
    "a newer Prefect's": (
        _sql("UPDATE alembic_version SET version_num = 'ffffffffffff'"),
        "was written by another version of Prefect",
    ),
    "killed while it was made": (
        _sql("DELETE FROM flow_run; UPDATE alembic_version SET version_num = 'f416ea180ae1'"),
        "was left half-made",
    ),
    "killed before that": (_sql("DROP TABLE alembic_version"), "half-made"),
    "somebody else's": (
        _instead(_sql("CREATE TABLE patients (name TEXT)")),
        "is none of Prefect's",
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_cannot_be_used_is_moved_away(home, capsys, kind):
    change, words = UNUSABLE[kind]
    change(home / "prefect.db")
    (home / "prefect.db-wal").write_bytes(b"")
    set_aside_if_unusable(home)
    told = capsys.readouterr().err
    assert words in told and len(told.splitlines()) == 1
    assert not os.path.lexists(home / "prefect.db")
    assert not (home / "prefect.db-wal").exists()
    assert os.path.lexists(home / "prefect.db.set-aside-1")
    # The next one is kept beside it.
    (home / "prefect.db").write_text("notes")
    set_aside_if_unusable(home)
    assert (home / "prefect.db.set-aside-2").read_text() == "notes"


USABLE = {
    "as it was": lambda path: None,
    "empty": _instead(lambda path: path.touch()),
    "not there": lambda path: path.unlink(),
    "an older Prefect's": _sql("UPDATE alembic_version SET version_num = 'f416ea180ae1'"),
}


@pytest.mark.parametrize("kind", USABLE)
def test_what_prefect_can_use_stays(home, capsys, kind):
    USABLE[kind](home / "prefect.db")
    before = os.path.lexists(home / "prefect.db")
    set_aside_if_unusable(home)
    assert capsys.readouterr().err == ""
    assert os.path.lexists(home / "prefect.db") == before
    assert not list(home.glob("*set-aside*"))


def test_one_that_a_server_is_making_stays(home):
    """Two studies that start under one root at the same time: the second waits for the first's."""
    path = home / "prefect.db"
    UNUSABLE["killed while it was made"][0](path)
    with path.open("rb"):
        set_aside_if_unusable(home)
    assert path.exists()
    set_aside_if_unusable(home)
    assert not path.exists()


def test_loopback_is_added_to_what_the_user_wants(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "hospital.example, 10.0.0.1")
    monkeypatch.delenv("no_proxy", raising=False)
    bypass_proxies_here()
    bypass_proxies_here()
    wanted = "hospital.example,10.0.0.1,127.0.0.1,localhost,::1"
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == wanted


@pytest.mark.parametrize(
    "value", ["http://10.0.0.1:8080", "10.0.0.1:8080", "socks5h://u:p@proxy.example:1080", ""]
)
def test_proxies_that_hospitals_have(monkeypatch, value):
    import httpx

    for name in PROXIES:
        monkeypatch.setenv(name, value)
    check_proxies()
    with httpx.Client():
        pass  # It looks at them, and would want a package for SOCKS.


@pytest.mark.parametrize("value", ["ftp://u:secret@proxy", "http://proxy:x", "socks4://p:1", "://"])
def test_a_proxy_that_nobody_can_use(monkeypatch, value):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(InputError, match="HTTPS_PROXY names no proxy") as told:
        check_proxies()
    assert "secret" not in str(told.value)


def test_a_server_of_the_environment_is_known_as_such(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert find_server(tmp_path).named
    monkeypatch.delenv("PREFECT_API_URL")
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "server.json").write_text('{"url": "http://a/api", "secret": "b:c"}')
    assert not find_server(tmp_path).named
