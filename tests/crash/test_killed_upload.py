"""A machine that is killed while it puts an artifact into the bucket; another one goes on."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from synth_pipeline.bucket import Bucket
from synth_pipeline.remote_store import RemoteStore
from synth_pipeline.shared_store import SharedStore
from synth_pipeline.store import Output
from tests.s3_server import S3Server
from tests.test_store import recipe

URL = "s3://faces/study"
FILES = 12
#: Which object it does not get to write: the lease, one of the files, the manifest.
KILLS = [1, 2, 3, 5, 8, 11, 13, 14]


def images(out_dir: Path) -> Output:
    for number in range(FILES):
        (out_dir / f"{number:05d}.png").write_bytes(b"pixels %d" % number)
    return Output()


def never(out_dir: Path) -> Output:
    raise AssertionError("the stage was run again")


def machine(root: Path) -> SharedStore:
    return SharedStore(root, RemoteStore(Bucket(URL), expiry_s=1))


def make(root: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    machine(Path(root)).make(recipe(), images)


@pytest.mark.parametrize("goes_on", ["another machine", "the same machine"])
def test_killed_at_every_kind_of_write(tmp_path, monkeypatch, goes_on):
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["synth_pipeline.shared_store", "s3fs"])
    for at_put in KILLS:
        for name in server.names():
            server.remove(name)
        killed = tmp_path / f"killed-{at_put}"
        process = processes.Process(target=make, args=(str(killed), server.environment))
        with server.kill(lambda process=process: process.pid, at_put):
            process.start()
            process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not server.names("study/manifests/"), "it is seen before it is whole"

        same = goes_on == "the same machine"
        published = bool(list(killed.glob("sampling/[!.]*")))
        store = machine(killed if same else tmp_path / f"other-{at_put}")
        _, executed = store.make(recipe(), never if same and published else images)
        assert executed == (not same or not published)
        assert not server.names("study/leases/")

        third = machine(tmp_path / f"third-{at_put}")
        assert third.fetch(third.make(recipe(), never)[0])
        assert len(list(third.look(recipe()).artifact.path.glob("*.png"))) == FILES
    server.stop()
