"""A whole run: nothing phones home, and nobody learns from its traces who was photographed."""

import ast

import pytest
from PIL import Image

from tests.command_line import PATIENT

LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0"}


def test_nothing_phones_home(finished):
    """Prefect's server and client talk on this machine; nobody looks up any other."""
    lines = (finished.config.parent / "addresses.txt").read_text().splitlines()
    addresses = [ast.literal_eval(line) for line in lines]
    hosts = {str(a[0]) if isinstance(a, tuple) else str(a) for a in addresses}
    assert "127.0.0.1" in hosts, "nothing was heard, so nothing is proved"
    # A name beginning with a slash is a socket in the file system.
    assert {host for host in hosts if not host.startswith(("/", "b'/"))} <= LOCAL


def test_no_trace_of_a_name_but_where_it_is_meant_to_be(finished):
    """Prefect's database, its logs, the store, the report: none knows a file's name."""
    name = PATIENT.encode()
    assert any(name in path.read_bytes() for path in finished.photos.iterdir())
    searched = 0
    for path in finished.root.rglob("*"):
        if path.is_file():
            searched += 1
            content = path.read_bytes()
            assert name not in content, path
            assert name.replace(b" ", b"_") not in content, path
            assert PATIENT not in str(path)
    assert searched > 50
    assert PATIENT not in finished.first.out + finished.first.err


def test_prefect_never_learns_where_the_photos_lie(finished):
    place = str(finished.photos).encode()
    for path in (finished.root / "prefect").rglob("*"):
        assert not path.is_file() or place not in path.read_bytes(), path


@pytest.mark.parametrize("folder", ["store", "prefect", "studies/small"])
def test_only_the_owner_can_look(finished, folder):
    assert (finished.root / folder).stat().st_mode & 0o077 == 0


def test_every_synthetic_image_says_that_it_is_one(finished):
    images = sorted((finished.root / "store" / "sampling").glob("[!.]*/images/*.png"))
    assert len(images) == 18
    for path in images:
        with Image.open(path) as image:
            told = " ".join(f"{key} {value}" for key, value in image.info.items()).lower()
        assert "synthetic" in told, path


def test_nothing_is_pickled(finished):
    """Neither Prefect nor a stage leaves a file that runs code when it is read."""
    kinds = {path.suffix for path in finished.root.rglob("*") if path.is_file()}
    assert not kinds & {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".npy"}
