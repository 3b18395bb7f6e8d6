"""The store in a bucket: the guarantees of the local one, for machines that share no disk.

A "machine" is a root folder of its own. The server speaks S3 (moto), the client is s3fs.
"""

import multiprocessing
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from synth_pipeline.bucket import Bucket
from synth_pipeline.errors import InputError, StageError, StoreUnreachableError
from synth_pipeline.graph import Graph, Input, Node
from synth_pipeline.leases import Leases
from synth_pipeline.remote_store import RemoteStore
from synth_pipeline.shared_store import SharedStore, open_store
from synth_pipeline.store import Output, Store
from tests.s3_server import S3Server
from tests.test_store import body, recipe

URL = "s3://faces/study"


@pytest.fixture(scope="module")
def server():
    started = S3Server()
    yield started
    started.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """The server with an empty bucket, and this process's environment to reach it."""
    for name in server.names():
        server.remove(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.asked.clear()
    yield server
    server.ignores_conditions = False


def machine(tmp_path: Path, name: str) -> Store:
    return open_store(tmp_path / name, URL)


def never(out_dir: Path) -> Output:
    raise AssertionError("the stage was run")


def test_what_one_machine_made_is_cached_on_another(s3, tmp_path):
    made, executed = machine(tmp_path, "a").make(recipe(), body)
    other = machine(tmp_path, "b")
    found, executed_again = other.make(recipe(), never)
    assert (executed, executed_again) == (True, False)
    assert found.digest == made.digest and found.parts == made.parts
    assert not found.path.exists(), "it was downloaded before anybody reads it"
    assert other.fetch(found)
    assert Store(tmp_path / "b").look(recipe()).status == "cached"
    assert (found.path / "images" / "00000.png").read_bytes() == b"pixels"
    assert found.path.stat().st_mode & 0o777 == 0o700


def test_the_manifest_comes_last_and_no_lease_stays(s3, tmp_path):
    machine(tmp_path, "a").make(recipe(), body)
    written = [path for method, path in s3.asked if method == "PUT" and "/leases/" not in path]
    assert "/manifests/" in written[-1]
    assert sum("/files/" in path for path in written) == 2
    assert not s3.names("study/leases/")


def test_a_plan_downloads_nothing_and_says_what_was_verified(s3, tmp_path):
    machine(tmp_path, "a").make(recipe(), body)
    s3.asked.clear()
    looked = machine(tmp_path, "b").look(recipe())
    assert looked.status == "cached" and looked.is_away
    assert "sizes" in looked.reason
    assert not [path for method, path in s3.asked if method == "GET" and "/files/" in path]
    assert not [method for method, _ in s3.asked if method in ("PUT", "POST", "DELETE")]
    assert not (tmp_path / "b").exists()


def test_what_was_shared_is_not_asked_for_again(s3, tmp_path):
    machine(tmp_path, "a").make(recipe(), body)
    s3.asked.clear()
    assert machine(tmp_path, "a").look(recipe()).status == "cached"
    assert not s3.asked


def test_without_its_manifest_nothing_is_there(s3, tmp_path):
    machine(tmp_path, "a").make(recipe(), body)
    for name in s3.names("study/manifests/"):
        s3.remove(name)
    assert machine(tmp_path, "b").look(recipe()).status == "missing"
    # Whoever has it puts it there again, and sends no file twice.
    s3.asked.clear()
    machine(tmp_path, "a").make(recipe(), never)
    written = [path for method, path in s3.asked if method == "PUT"]
    assert len(written) == 1 and written[0].startswith("/faces/study/manifests/")
    assert machine(tmp_path, "b").look(recipe()).status == "cached"


def test_what_was_made_before_there_was_a_bucket_is_put_there(s3, tmp_path):
    Store(tmp_path / "a").make(recipe(), body)
    machine(tmp_path, "a").make(recipe(), never)
    assert machine(tmp_path, "b").look(recipe()).status == "cached"


def test_a_damaged_local_copy_is_fetched_not_made(s3, tmp_path):
    made, _ = machine(tmp_path, "a").make(recipe(), body)
    (made.path / "samples.parquet").write_bytes(b"tabel")
    store = machine(tmp_path, "a")
    found, executed = store.make(recipe(), never)
    assert not executed and store.fetch(found)
    assert (made.path / "samples.parquet").read_bytes() == b"table"


@pytest.mark.parametrize("damage", ["gone", "cut", "manifest"])
def test_damage_in_the_bucket_is_seen_and_mended(s3, tmp_path, damage):
    machine(tmp_path, "a").make(recipe(), body)
    kind = "manifests" if damage == "manifest" else "files"
    name = s3.names(f"study/{kind}/")[0]
    if damage == "gone":
        s3.remove(name)
    else:
        s3.write(name, s3.read(name)[:-1])
    looked = machine(tmp_path, "b").look(recipe())
    assert looked.status == "damaged" and "bucket" in looked.reason
    assert machine(tmp_path, "b").make(recipe(), body)[1]
    third = machine(tmp_path, "c")
    assert third.fetch(third.make(recipe(), never)[0])


def counted(ran: list[str], name: str, text: str):
    def run(inputs, out_dir, progress):
        ran.append(name)
        for folder in inputs.values():
            assert list(folder.iterdir()), "an input is not at hand"
        (out_dir / "file").write_text(text)
        return Output()

    return run


def chain(ran: list[str], text: str = "one") -> list[Node]:
    source = Node("source", "", 1, {}, counted(ran, "source", text))
    user = Node("user", "", 1, {}, counted(ran, "user", "two"), (Input("source", source),))
    return [source, user]


def test_a_changed_byte_in_the_bucket_is_found_when_it_is_read(s3, tmp_path):
    """Sizes are as they were: only the hash tells; the input is made again, by itself."""
    ran: list[str] = []
    Graph(machine(tmp_path, "a")).make(chain(ran)[0])
    name = s3.names("study/files/source/")[0]
    s3.write(name, b"eno")
    graph = Graph(machine(tmp_path, "b"))
    for node in chain(ran):
        graph.make(node)
    assert ran == ["source", "source", "user"]
    assert s3.read(name) == b"one"
    third = Graph(machine(tmp_path, "c"))
    assert (third.artifact(chain(ran)[1]).path / "file").read_text() == "two"
    assert ran == ["source", "source", "user"]


def test_a_changed_byte_that_cannot_be_made_again_is_one_sentence(s3, tmp_path):
    ran: list[str] = []
    Graph(machine(tmp_path, "a")).make(chain(ran)[0])
    s3.write(s3.names("study/files/source/")[0], b"eno")
    graph = Graph(machine(tmp_path, "b"))
    nodes = chain(ran, text="another machine's bits")
    graph.make(nodes[0])
    with pytest.raises(StageError, match=r"source was damaged in the bucket.*run the same command"):
        graph.make(nodes[1])
    # And then it goes on.
    graph = Graph(machine(tmp_path, "b"))
    for node in nodes:
        graph.make(node)
    assert ran == ["source", "source", "user"]


def test_of_two_contents_the_first_in_the_bucket_stands_everywhere(s3, tmp_path):
    def other_bits(out_dir: Path) -> Output:
        (out_dir / "samples.parquet").write_bytes(b"other")
        return Output()

    Store(tmp_path / "b").make(recipe(), other_bits)
    first, _ = machine(tmp_path, "a").make(recipe(), body)
    store = machine(tmp_path, "b")
    found, executed = store.make(recipe(), never)
    assert not executed and found.digest == first.digest
    assert store.fetch(found)
    assert not list(tmp_path.glob("b/*/.*"))
    assert (found.path / "samples.parquet").read_bytes() == b"table"


def test_a_slower_machine_takes_the_content_of_the_faster_one(s3, tmp_path):
    """As when a lease has ended too early: both make it, one manifest stands."""

    def overtaken(out_dir: Path) -> Output:
        fast = RemoteStore(Bucket(URL))
        made, _ = Store(tmp_path / "fast").make(recipe(), body)
        fast.upload(made, (made.path / "manifest.json").read_bytes())
        (out_dir / "samples.parquet").write_bytes(b"slower")
        return Output()

    store = machine(tmp_path, "slow")
    found, _ = store.make(recipe(), overtaken)
    assert store.fetch(found)
    assert (found.path / "samples.parquet").read_bytes() == b"table"


def _make_elsewhere(root: str, environment: dict[str, str], counter: str) -> None:
    os.environ.update(environment)

    def slow(out_dir):
        with Path(counter).open("a") as stream:
            stream.write("ran\n")
        time.sleep(1)
        return body(out_dir)

    open_store(Path(root), URL).make(recipe(), slow)


def test_four_machines_make_it_once(s3, tmp_path):
    context = multiprocessing.get_context("spawn")
    counter = tmp_path / "counter"
    processes = [
        context.Process(
            target=_make_elsewhere,
            args=(str(tmp_path / f"machine-{number}"), s3.environment, str(counter)),
        )
        for number in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert counter.read_text() == "ran\n"
    assert not s3.names("study/leases/")


def test_a_lease_that_beats_is_respected(s3):
    order = []

    def second():
        with Leases(Bucket(URL), "b", 3).held("x/y", lambda: False):
            order.append("b")

    with Leases(Bucket(URL), "a", 3).held("x/y", lambda: False):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(4.5)  # longer than one that does not beat would last
        order.append("a")
    waiting.join()
    assert order == ["a", "b"]


def test_a_lease_whose_holder_is_dead_ends(s3):
    s3.write("study/leases/x/y/1", b'{"owner": "dead", "beat": "0"}')
    begun_s = time.monotonic()
    with Leases(Bucket(URL), "b", 1).held("x/y", lambda: False):
        assert s3.names("study/leases/") == ["study/leases/x/y/2"]
    assert time.monotonic() - begun_s > 1
    assert not s3.names("study/leases/")


def test_a_lease_of_the_same_store_is_a_dead_process_s(s3):
    s3.write("study/leases/x/y/1", b'{"owner": "a", "beat": "0"}')
    with Leases(Bucket(URL), "a", 60).held("x/y", lambda: False):
        pass


def test_who_waits_goes_on_when_it_is_made(s3):
    s3.write("study/leases/x/y/1", b'{"owner": "dead", "beat": "0"}')
    with Leases(Bucket(URL), "b", 60).held("x/y", lambda: True):
        assert s3.names("study/leases/") == ["study/leases/x/y/1"]


def test_sweep_removes_what_nobody_will_read(s3, tmp_path, monkeypatch):
    store = machine(tmp_path, "a")
    assert isinstance(store, SharedStore)
    store.make(recipe(), body)
    store.make(recipe(label="turner"), body)
    orphan = s3.names("study/manifests/")[0]
    s3.remove(orphan)
    assert store.sweep() == 0
    assert len(s3.names("study/files/")) == 4, "it is not a week old"
    s3.remove("study/swept")
    now = time.time()
    clock = "synth_pipeline.remote_store.time"
    monkeypatch.setattr(clock, SimpleNamespace(time=lambda: now + 8 * 24 * 3600))
    assert store.remote.sweep() == 1
    assert len(s3.names("study/files/")) == 2
    # It looks once a day.
    s3.remove(s3.names("study/manifests/")[0])
    monkeypatch.setattr(clock, SimpleNamespace(time=lambda: now + 60))
    assert store.remote.sweep() == 0


def test_what_the_server_says_is_one_sentence(s3, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such bucket"):
        open_store(tmp_path, "s3://nobody/x").check()
    open_store(tmp_path, URL).check()
    assert s3.names() == []
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    with pytest.raises(InputError, match="refuses these credentials"):
        machine(tmp_path, "a").check()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match="no usable AWS credentials"):
        machine(tmp_path, "a").check()
    assert not any(tmp_path.iterdir())


def test_a_server_that_ignores_conditions_is_refused(s3, tmp_path):
    s3.ignores_conditions = True
    with pytest.raises(InputError, match="If-None-Match"):
        machine(tmp_path, "a").check()


def test_what_was_made_is_kept_when_the_network_goes_down(s3, tmp_path, monkeypatch):
    store = machine(tmp_path, "a")
    dead = S3Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL", dead.address)

    def then_down(out_dir: Path) -> Output:
        dead.stop()
        return body(out_dir)

    with pytest.raises(StoreUnreachableError, match="what was finished is kept"):
        store.make(recipe(), then_down)
    assert Store(tmp_path / "a").look(recipe()).status == "cached"
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    machine(tmp_path, "a").make(recipe(), never)
    assert machine(tmp_path, "b").look(recipe()).status == "cached"


def test_a_manifest_cannot_name_a_file_of_ours(s3, tmp_path):
    """Whoever can write the bucket must not write elsewhere on our disks."""
    from synth_pipeline.manifest import _checksum, canonical_json

    made, _ = machine(tmp_path, "a").make(recipe(), body)
    name = s3.names("study/manifests/")[0]
    forged = dict(made.manifest)
    forged["files"] = {"../../../stolen": {"bytes": 1, "sha256": "00"}}
    forged["checksum"] = _checksum(forged)
    s3.write(name, canonical_json(forged))
    assert machine(tmp_path, "b").look(recipe()).status == "damaged"


def test_many_artifacts_are_looked_at_in_few_requests(s3, tmp_path):
    recipes = [recipe(label=str(number)) for number in range(12)]
    store = machine(tmp_path, "a")
    store.make_together(recipes, lambda numbers, folders: [body(folder) for folder in folders])
    s3.asked.clear()
    other = machine(tmp_path, "b")
    assert all(other.look(each).is_away for each in recipes)
    # One for each manifest, all at a time, and two listings.
    assert len(s3.asked) == len(recipes) + 2
