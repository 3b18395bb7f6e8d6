"""The inbox: every file ends in the registry or in the quarantine, and is told of."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from flows.cli import main
from synth_pipeline.errors import InputError
from synth_pipeline.inbox import Inbox
from tests.command_line import PATIENT, STUDY


def held(desk):
    return {entry.file: entry for entry in desk.quarantine.held()}


def test_photos_become_cases_and_the_inbox_is_empty(desk):
    for place in ("Noonan/one.png", "Noonan/no ending", "new class/two.jpg"):
        desk.drop(place)
    done = desk.ingest()
    assert dict(done.accepted) == {"noonan": 2, "new-class": 1}
    assert desk.left() == []
    assert sorted(e.class_name for e in desk.registry.entries) == ["Noonan", "Noonan", "new class"]
    assert not desk.quarantine.held()
    assert desk.inbox.is_dir() and (desk.inbox / "Noonan").is_dir()


def test_a_folder_in_the_class_folder_is_a_person(desk):
    for number in range(8):
        desk.drop(f"a/{PATIENT} {number % 2}/{number}.png")
    desk.ingest()
    sides = {(e.subject_id, e.split) for e in desk.registry.entries}
    assert len(sides) == len({subject for subject, _ in sides}) == 2


def test_what_cannot_be_used_is_moved_with_its_reason(desk):
    good = desk.drop("a/good.png").read_bytes()
    desk.drop("a/broken.jpg", good[: len(good) // 2])
    desk.drop("a/empty.png", b"")
    desk.drop("a/notes.heic", b"hello")
    desk.drop("nowhere.png")
    desk.drop("b/clash.png", good)
    desk.drop("a/twice.png", good)
    done = desk.ingest()
    assert desk.left() == []
    assert {file: entry.reason for file, entry in held(desk).items()} == {
        "a/broken.jpg": "is damaged or cut short",
        "a/empty.png": "is empty",
        "a/notes.heic": "is no JPEG, PNG, WebP, BMP or TIFF picture",
        "nowhere.png": "lies in no class folder",
        "b/clash.png": f"shows the same as {desk.registry.entries[0].case_id} of another class, "
        "a: one of the two diagnoses is wrong",
        "a/twice.png": f"shows the same as {desk.registry.entries[0].case_id}",
    }
    assert done.quarantined == {"a": 3, "": 1, "b": 1}
    assert done.duplicates == {"a": 1}
    # The bytes are kept, so whoever sent them can look.
    stored = desk.quarantine.folder / held(desk)["a/broken.jpg"].stored
    assert stored.read_bytes() == good[: len(good) // 2]
    for path in [desk.quarantine.folder, *desk.quarantine.folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
        assert not any(word in path.name for word in ("broken", "notes", "twice", "clash"))


def test_a_huge_file_is_set_aside_undecoded(desk, monkeypatch):
    path = desk.drop("a/huge.png", b"")
    os.truncate(path, 51 * 2**20)
    desk.ingest()
    assert held(desk)["a/huge.png"].reason == "has more than 50 MB"
    assert desk.left() == []


def test_links_are_not_followed(desk, tmp_path):
    outside = tmp_path / "outside" / "photo.png"
    outside.parent.mkdir()
    outside.write_bytes(desk.drop("a/first.png").read_bytes())
    (desk.inbox / "a" / "link.png").symlink_to(outside)
    (desk.inbox / "class").symlink_to(outside.parent)
    (desk.inbox / "a" / "nowhere.png").symlink_to(tmp_path / "gone")
    done = desk.ingest()
    assert done.accepted == {"a": 1}
    assert {e.reason for e in desk.quarantine.held()} == {
        "is a link, which is not followed; give the file itself"
    }
    assert set(held(desk)) == {"a/link.png", "class", "a/nowhere.png"}
    assert desk.left() == []
    assert outside.exists()


def test_hidden_files_and_empty_folders_are_told_of(desk):
    desk.drop("a/.photo.png.part", b"on its way")
    desk.drop(".cache/x", b"")
    desk.drop("a/Thumbs.db", b"")
    (desk.inbox / "Not Yet").mkdir()
    done = desk.ingest()
    assert done.passed.system == 3
    assert done.empty == ["not-yet"]
    assert desk.left() == [".cache/x", "a/.photo.png.part", "a/Thumbs.db"]
    assert not desk.quarantine.held()


def test_a_pipe_is_left_and_told_of(desk):
    (desk.inbox / "a").mkdir()
    os.mkfifo(desk.inbox / "a" / "pipe")
    done = desk.ingest()
    assert done.left == {"a": 1}
    assert held(desk)["a/pipe"].reason == "is neither a file nor a folder"


def test_a_file_that_is_being_written_is_waited_for(desk):
    whole = desk.drop("a/other.png").read_bytes()
    slow = desk.drop("b/slow.png", whole[:100])
    content = next(desk.photos).read_bytes()
    steps = iter([content[:500], content[:900], content])

    def write_on(_):
        if (step := next(steps, None)) is not None:
            slow.write_bytes(step)

    done = desk.ingest(sleep=write_on)
    assert dict(done.accepted) == {"a": 1, "b": 1}
    assert not desk.quarantine.held()


def test_a_file_that_grows_all_the_time_is_left_for_the_next_time(desk):
    desk.drop("a/one.png")
    slow = desk.drop("b/slow.png", b"1")

    def write_on(_):
        slow.write_bytes(slow.read_bytes() + b"1")

    done = desk.ingest(sleep=write_on)
    assert (dict(done.accepted), done.growing) == ({"a": 1}, 1)
    assert desk.left() == ["b/slow.png"]
    assert not desk.quarantine.held()


def test_again_changes_nothing(desk):
    first = desk.drop("a/one.png")
    content = first.read_bytes()
    desk.ingest()
    before = {p: p.read_bytes() for p in desk.root.rglob("*") if p.is_file()}
    assert dict(desk.ingest().accepted) == {}
    # As a run that was killed before it removed the file would leave it.
    desk.drop("a/one.png", content)
    done = desk.ingest()
    assert (dict(done.accepted), dict(done.known)) == ({}, {"a": 1})
    assert {p: p.read_bytes() for p in desk.root.rglob("*") if p.is_file()} == before
    assert desk.left() == []


def test_sides_do_not_move_when_more_arrive(desk):
    for number in range(6):
        desk.drop(f"a/{number}.png")
    desk.ingest()
    before = {e.case_id: e.split for e in desk.registry.entries}
    for number in range(6):
        desk.drop(f"a/later {number}.png")
    desk.ingest_with(seed=99, fraction=0.5)
    after = {e.case_id: e.split for e in desk.registry.entries}
    assert len(after) == 12
    assert {case: after[case] for case in before} == before


def test_an_address_that_fsspec_reaches(desk):
    import fsspec

    memory = fsspec.filesystem("memory")
    for place in ("a/one.png", "a/person/two.png", "b/broken.png"):
        content = b"no" if "broken" in place else next(desk.photos).read_bytes()
        memory.pipe_file(f"/inbox-of-a-test/{place}", content)
    done = desk.ingest("memory://inbox-of-a-test")
    assert done.accepted == {"a": 2}
    assert done.quarantined == {"b": 1}
    assert not memory.find("/inbox-of-a-test")


def refused(capsys, *arguments):
    code = main([*map(str, arguments)])
    told = capsys.readouterr()
    assert code == 2, told
    assert len(told.err.splitlines()) == 1, told.err
    assert told.err.startswith("synth-pipeline: ")
    return told.err


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(STUDY.format(source="''").replace("format: csv", "format: registry"))
    return path


def test_command(desk, config, capsys):
    for number in range(3):
        desk.drop(f"a/{PATIENT} {number}.png")
    desk.drop(f"b/{PATIENT}.jpg", b"not a photo")
    (desk.inbox / "c").mkdir()
    line = ["--inbox", str(desk.inbox), "--root", str(desk.root), "--settle", "0"]
    assert main(["cases", "ingest", str(config), *line]) == 2
    told = capsys.readouterr()
    assert "3 accepted: a 3" in told.out
    assert "1 in quarantine: b 1" in told.out
    assert "empty class folders: c" in told.out
    assert PATIENT not in told.out + told.err
    # Whoever has to mend it is told the name, on request.
    assert main(["cases", "check", str(config), "--root", str(desk.root)]) == 2
    assert f"b/{PATIENT}.jpg: is no JPEG" in capsys.readouterr().out
    assert main(["cases", "ingest", str(config), *line]) == 0


def test_wrong_input_is_one_sentence(desk, config, capsys, tmp_path):
    root = ["--root", desk.root, "--settle", "0"]
    nowhere = refused(capsys, "cases", "ingest", config, *root, "--inbox", tmp_path / "no")
    assert "no folder that is there" in nowhere
    assert "No inbox is named" in refused(capsys, "cases", "ingest", config, *root)
    other = ["--set", "cases.format=imagefolder", "--set", f"cases.source={tmp_path}"]
    told = refused(capsys, "cases", "ingest", config, *root, *other, "--inbox", desk.inbox)
    assert "set cases.format to registry" in told
    unknown = refused(capsys, "cases", "ingest", config, *root, "--inbox", "what://is/this")
    assert "knows no what://" in unknown
    assert not desk.root.exists()
    assert "holds no case" in refused(capsys, "run", config, "--root", desk.root)


def test_an_inbox_that_holds_the_registry_is_refused(desk, config, capsys):
    for place in (desk.root.parent, desk.root / "registry" / "images"):
        place.mkdir(parents=True, exist_ok=True)
        told = refused(capsys, "cases", "ingest", config, "--root", desk.root, "--inbox", place)
        assert "lie in each other" in told


def test_s3_without_its_package(monkeypatch, desk):
    # As where it is not installed: the import fails, and fsspec has no class of it yet.
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(InputError, match=r"pip install -c \S*constraints.txt s3fs"):
        Inbox("s3://bucket/inbox")


def test_a_damaged_registry_is_said_before_anything_is_taken(desk, config, capsys):
    desk.drop("a/one.png")
    desk.ingest()
    index = desk.root / "registry" / "cases.jsonl"
    index.write_bytes(index.read_bytes().replace(b"train", b"trail"))
    desk.drop("a/two.png")
    line = ["--root", desk.root, "--inbox", desk.inbox, "--settle", "0"]
    assert "was changed" in refused(capsys, "cases", "ingest", config, *line)
    assert desk.left() == ["a/two.png"]
    for verb in (["run"], ["plan"], ["cases", "check"]):
        assert "was changed" in refused(capsys, *verb, config, "--root", desk.root)


def test_an_unreadable_inbox_is_one_sentence(desk, config):
    """As a user who is not root."""
    if os.geteuid() != 0:
        desk.inbox.chmod(0)
        with pytest.raises(InputError, match="Permission denied"):
            Inbox(str(desk.inbox)).look()
        desk.inbox.chmod(0o700)
        return
    desk.inbox.chmod(0o700)
    program = (
        "import os, sys\n"
        "from synth_pipeline.inbox import Inbox\n"
        "os.setuid(65534)\n"
        "try:\n"
        "    Inbox(sys.argv[1]).look()\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    desk.inbox.parent.chmod(0o755)
    ended = subprocess.run(
        [sys.executable, "-c", program, str(desk.inbox)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.startswith("InputError The inbox"), ended


def test_exif_does_not_come_in(desk, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = PATIENT
    with Image.open(next(desk.photos)) as photo:
        photo.save(tmp_path / "x.jpg", exif=exif)
    assert PATIENT.encode() in (tmp_path / "x.jpg").read_bytes()
    desk.drop(f"a/{PATIENT}.jpg", (tmp_path / "x.jpg").read_bytes())
    desk.ingest()
    for path in desk.root.rglob("*"):
        assert not path.is_file() or PATIENT.encode() not in path.read_bytes(), path
