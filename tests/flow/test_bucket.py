"""A study whose store is a bucket, run by the command line on one machine, then on another."""

import shutil

import pytest

from tests.command_line import PATIENT, command
from tests.s3_server import ENVIRONMENT, S3Server


@pytest.fixture
def s3(monkeypatch):
    server = S3Server()
    for name in server.names():
        server.remove(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def run(finished, root, *more):
    place = ["--set", "store=s3://faces/study"]
    return command(*more, finished.config, "--root", root, *place)


def test_a_study_is_cached_on_a_machine_that_never_saw_it(s3, finished, tmp_path):
    """The first run is that of another test, made before there was a bucket: all of it is sent."""
    here = tmp_path / "here"
    shutil.copytree(finished.root, here)
    first = run(finished, here, "run")
    assert first.code == 0, first.err
    assert " 0 stages run" in first.out
    other = tmp_path / "other"
    planned = run(finished, other, "plan")
    assert planned.code == 0, planned.err
    assert " 0 to run" in planned.out and "in the bucket" in planned.out
    assert [path.parent.name for path in (other / "store").glob("[!.]*/[!.]*")] == ["cases"]
    second = run(finished, other, "run")
    assert second.code == 0, second.err
    assert " 0 stages run" in second.out
    for name in ("scores.parquet", "report.html"):
        made = [root / "studies" / "small" / name for root in (here, other)]
        assert made[0].read_bytes() == made[1].read_bytes()
    # What the last stages read has come, and nothing else: no synthetic image.
    assert not list((other / "store").glob("sampling/[!.]*"))

    for name in s3.names():
        content = s3.read(name)
        assert PATIENT.encode() not in content and PATIENT not in name, name
        assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"].encode() not in content, name
    for root in (here, other):
        for path in root.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"].encode() not in content, path
                assert ENVIRONMENT["AWS_ACCESS_KEY_ID"].encode() not in content, path
    assert b"s3://" not in (other / "studies" / "small" / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("change", "store", "code", "told"),
    [
        ({}, "s3://nobody/study", 2, "no such bucket"),
        ({"AWS_ACCESS_KEY_ID": "AKIAWRONG"}, "s3://faces/study", 2, "refuses these credentials"),
        ({"AWS_ACCESS_KEY_ID": ""}, "s3://faces/study", 2, "no usable AWS credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "s3://faces/study", 1, "cannot be reached"),
        ({}, "s3://key:secret@faces/study", 2, "not of the form s3://"),
        ({}, "ftp://faces", 2, "not of the form s3://"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    s3, finished, tmp_path, monkeypatch, change, store, code, told
):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    root = tmp_path / "root"
    ended = command("run", finished.config, "--root", root, "--set", f"store={store}")
    assert ended.code == code, ended.err
    assert told in ended.err and ended.err.count("\n") == 1 and "Traceback" not in ended.err
    assert not root.exists()
