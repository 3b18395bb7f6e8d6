"""An inbox in a bucket: the same as a folder."""

import pytest

from synth_pipeline.errors import InputError
from synth_pipeline.inbox import Inbox
from tests.s3_server import S3Server


@pytest.fixture
def s3(monkeypatch):
    server = S3Server()
    for name in server.names():  # moto's memory is the process's
        server.remove(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    # One file system for each test, not one for each address and process.
    monkeypatch.setattr("s3fs.S3FileSystem.cachable", False)
    yield server
    server.stop()


def test_photos_are_taken_out_of_a_bucket(s3, desk):
    face = next(desk.photos).read_bytes()
    s3.write("inbox/a/", b"")  # a folder's marker, as consoles make it
    s3.write("inbox/a/one.png", face)
    s3.write("inbox/a/person/two.png", next(desk.photos).read_bytes())
    s3.write("inbox/a/broken.png", face[:500])
    s3.write("inbox/b/.part", b"")
    s3.write("elsewhere/three.png", next(desk.photos).read_bytes())
    done = desk.ingest("s3://faces/inbox")
    assert done.accepted == {"a": 2}
    assert done.quarantined == {"a": 1}
    assert done.passed.system == 1
    assert s3.names() == ["elsewhere/three.png", "inbox/a/", "inbox/b/.part"]
    assert [entry.file for entry in desk.quarantine.held()] == ["a/broken.png"]
    desk.registry.verify()


def test_an_empty_prefix_is_an_empty_inbox(s3, desk):
    s3.write("inbox/a/one.png", next(desk.photos).read_bytes())
    desk.ingest("s3://faces/inbox")
    assert s3.names() == []
    assert not desk.ingest("s3://faces/inbox").accepted
    with pytest.raises(InputError, match=r"^[^\n]*no folder that is there[^\n]*$"):
        Inbox("s3://no-such-bucket/inbox")


def test_a_wrong_key_and_no_server_are_one_sentence(s3, desk, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    with pytest.raises(InputError, match=r"^The inbox s3://faces/inbox cannot be read[^\n]*$"):
        Inbox("s3://faces/inbox").look()
    s3.stop()
    s3.stop = lambda: None
    with pytest.raises(InputError, match=r"^The inbox s3://faces/inbox cannot be read[^\n]*$"):
        Inbox("s3://faces/inbox").look()
