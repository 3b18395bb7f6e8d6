"""The decoded pictures: shared, verified, and filled again when deleted or damaged."""

import os
import signal
import stat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from synth_pipeline import picture_store
from synth_pipeline.errors import InputError
from synth_pipeline.picture_store import PictureStore, decoded


@pytest.fixture
def files(phantom_files) -> list[Path]:
    return [path for paths in phantom_files.values() for path in paths]


@pytest.fixture
def count_decoding(monkeypatch):
    made: list[Path] = []
    real = picture_store.decode

    def decode(path, size_px):
        made.append(path)
        return real(path, size_px)

    monkeypatch.setattr(picture_store, "decode", decode)
    return made


def test_each_picture_is_decoded_once_whoever_asks(files, tmp_path, count_decoding):
    whole = PictureStore(tmp_path / "p").pictures(files, 48)
    assert len(count_decoding) == len(files)
    # A nested subset, in another order, by another process' store.
    subset = PictureStore(tmp_path / "p").pictures(files[9:2:-2], 48)
    assert len(count_decoding) == len(files)
    assert subset.pixels.shape == whole.pixels.shape
    assert (subset.all() == whole.take(np.arange(9, 2, -2))).all()
    assert (whole.all() == decoded(files, 48).all()).all()


def test_it_is_by_content_not_by_place(files, tmp_path, count_decoding):
    store = PictureStore(tmp_path / "p")
    store.pictures(files[:1], 48)
    elsewhere = tmp_path / "other.png"
    elsewhere.write_bytes(files[0].read_bytes())
    store.pictures([elsewhere], 48)
    assert len(count_decoding) == 1
    assert len(store.pictures([elsewhere, files[0]], 64)) == 2  # another size is another file


def test_it_may_be_deleted_and_damaged(files, tmp_path):
    expected = decoded(files, 48).all()
    store = PictureStore(tmp_path / "p")
    before = store.pictures(files, 48)
    data = next((tmp_path / "p").glob("*.pixels"))
    with data.open("r+b") as stream:
        stream.seek(5 * 3 * 48**2 + 7)
        stream.write(b"\xff\x00\xff")
    index = next((tmp_path / "p").glob("*.index"))
    index.write_text(index.read_text()[:-30] + "\nnonsense\n")
    assert (PictureStore(tmp_path / "p").pictures(files, 48).all() == expected).all()
    for path in (tmp_path / "p").iterdir():
        path.unlink()
    assert len(before.all()) == len(files)  # what is mapped stays
    assert (store.pictures(files, 48).all() == expected).all()
    (tmp_path / "p" / data.name).unlink()
    assert (store.pictures(files, 48).all() == expected).all()


@pytest.mark.parametrize("byte", [0x00, 0x0A, 0x80, 0xB2, 0xFF])
def test_no_byte_of_the_index_breaks_it(files, tmp_path, byte):
    """At the hash, the row and the checksum of a line: superscripts are digits, but no numbers."""
    expected = decoded(files, 48).all()
    PictureStore(tmp_path / "p").pictures(files, 48)
    index = next((tmp_path / "p").glob("*.index"))
    for place in (0, 64, 65, 67, 70):
        content = bytearray(index.read_bytes())
        content[place] = byte
        index.write_bytes(content)
        assert (PictureStore(tmp_path / "p").pictures(files, 48).all() == expected).all()


def test_what_is_no_file_makes_way(files, tmp_path):
    expected = decoded(files[:3], 48).all()
    PictureStore(tmp_path / "p").pictures(files[:3], 48)
    for pattern in ("*.index", "*.pixels"):
        path = next((tmp_path / "p").glob(pattern))
        for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")):
            path.unlink() if not path.is_dir() else path.rmdir()
            make(path)
            assert (PictureStore(tmp_path / "p").pictures(files[:3], 48).all() == expected).all()
            assert path.is_file()
    index = next((tmp_path / "p").glob("*.index"))
    index.write_text(f"{'a' * 64} {'9' * 5000} 1\n{'²' * 64} 1 1\n" + index.read_text())
    assert (PictureStore(tmp_path / "p").pictures(files[:3], 48).all() == expected).all()


def test_only_its_owner_reads_it(files, tmp_path):
    PictureStore(tmp_path / "p").pictures(files[:2], 48)
    assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o700
    for path in (tmp_path / "p").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def fill(folder: Path, files: list[Path], kill_at: int | None) -> None:
    real, made = picture_store.decode, []

    def decode(path, size_px):
        made.append(path)
        if kill_at is not None and len(made) > kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, size_px)

    picture_store.decode = decode
    picture_store._CHUNK = 2
    PictureStore(folder).pictures(files, 48)


def test_several_processes_fill_it_and_some_are_killed(files, tmp_path):
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["synth_pipeline.picture_store"])
    running = [
        processes.Process(target=fill, args=(tmp_path / "p", files[turn:] + files[:turn], kill_at))
        for turn, kill_at in [(0, 3), (5, None), (9, 6), (12, None)]
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert {process.exitcode for process in running} <= {0, -signal.SIGKILL}
    kept = PictureStore(tmp_path / "p").pictures(files, 48)
    assert (kept.all() == decoded(files, 48).all()).all()
    assert len(kept.pixels) < 2 * len(files)  # nobody decoded what another had


def test_a_file_that_cannot_be_read_is_one_sentence_and_leaves_the_rest(files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:200])
    store = PictureStore(tmp_path / "p")
    with pytest.raises(InputError, match="is damaged"):
        store.pictures([files[0], broken], 48)
    assert len(store.pictures(files, 48)) == len(files)
