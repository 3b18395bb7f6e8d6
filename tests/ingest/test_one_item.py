"""One item that cannot be taken never stops the others; and each costs the same."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from synth_pipeline import ingest
from synth_pipeline.image_files import decode
from synth_pipeline.quarantine import Held, Quarantine
from tests.command_line import ROOT

OLD = os.fsdecode(b"M\xf6bius")


def reasons(desk):
    return {entry.file: entry.reason for entry in desk.quarantine.held()}


def test_names_that_are_not_utf8(desk):
    desk.drop(f"{OLD}/one.png")
    desk.drop(f"a/{OLD}/{OLD}.png")
    desk.drop(f"a/{OLD}.jpg", b"broken")
    desk.drop("b/two.png")
    (desk.inbox / f"{OLD} 2").mkdir()
    done = desk.ingest()
    assert dict(done.accepted) == {"a": 1, "b": 1}
    assert desk.left() == []
    assert reasons(desk) == {
        r"M\xf6bius/one.png": "lies in a class folder whose name is not UTF-8; rename it",
        r"a/M\xf6bius.jpg": "is no JPEG, PNG, WebP, BMP or TIFF picture",
    }
    "\n".join(ingest.told(done)).encode()


def test_a_file_larger_than_the_disk_is_put_away_without_a_copy(desk):
    """A terabyte of nothing: to copy it would fill the disk."""
    huge = desk.drop("a/huge.jpg", b"")
    os.truncate(huge, 2**40)
    inode = huge.stat().st_ino
    desk.drop("b/two.png")
    done = desk.ingest()
    assert (dict(done.accepted), dict(done.quarantined)) == ({"b": 1}, {"a": 1})
    (held,) = desk.quarantine.held()
    assert held.reason == "has more than 50 MB"
    stored = desk.quarantine.folder / held.stored
    assert stored.stat().st_ino == inode
    assert stored.stat().st_mode & 0o077 == 0
    assert desk.left() == []


def test_a_file_without_room_for_a_copy_stays_and_the_rest_goes_on(desk, monkeypatch):
    """As where the inbox lies on another disk, which cannot give a file a second name."""

    def other_disk(*_, **__):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr("os.link", other_disk)
    huge = desk.drop("a/huge.jpg", b"")
    os.truncate(huge, 2**40)
    desk.drop("b/two.png")
    for _ in range(2):
        done = desk.ingest()
        assert dict(done.left) == {"a": 1}
        assert reasons(desk) == {"a/huge.jpg": "is larger than the room that is left on the disk"}
    assert desk.left() == ["a/huge.jpg"]
    assert len(desk.registry.entries) == 1


def test_a_photo_that_takes_too_much_memory_stays_and_the_rest_goes_on(desk, monkeypatch):
    """As where a photo of many pixels is larger than what is free."""
    large = desk.drop("a/large.png").read_bytes()
    desk.drop("b/two.png")

    def short_of_memory(data):
        if data == large:
            raise MemoryError
        return decode(data)

    monkeypatch.setattr("synth_pipeline.photos.decode", short_of_memory)
    done = desk.ingest()
    assert (dict(done.accepted), dict(done.left)) == ({"b": 1}, {"a": 1})
    assert desk.left() == ["a/large.png"]
    monkeypatch.undo()
    assert dict(desk.ingest().accepted) == {"a": 1}


def test_persons_are_the_first_folder_below_the_class(desk):
    for number in range(4):
        desk.drop(f"a/Jane/visit {number}/{number}.png")
    desk.ingest()
    assert len({entry.subject_id for entry in desk.registry.entries}) == 1


@pytest.mark.parametrize("place", ["train/Noonan/1.png", "a/test/1.png", "Validation/a/p/1.png"])
def test_sides_are_no_conditions(desk, place):
    desk.drop(place)
    done = desk.ingest()
    assert not done.accepted
    assert "the registry decides who is held out" in reasons(desk)[place]


def test_system_folders_and_sidecars_stay_where_they_are(desk):
    desk.drop("a/one.png")
    for place in ("@eaDir/one.png/THUMB.jpg", "__MACOSX/x.jpg", "a/#recycle/x.jpg"):
        desk.drop(place)
    for place in ("a/one.txt", "a/one.png.json", "b/live.MOV"):
        desk.drop(place, b"beside")
    done = desk.ingest()
    assert dict(done.accepted) == {"a": 1} and not done.quarantined
    assert len(desk.left()) == 6
    assert ingest.told(done)[1] == (
        "Passed over: 3 hidden or system files and folders; 3 files beside photos "
        "(.json, .mov, .txt). They are left where they are."
    )


def test_a_new_class_that_is_another_spelling_is_mentioned(desk):
    for place in ("Noonan/1.png", "noonan/2.png", "noonan/3.png"):
        desk.drop(place)
    done = desk.ingest()
    assert sorted(done.accepted.values()) == [1, 2]
    (told,) = [line for line in ingest.told(done) if line.startswith("new class")]
    assert told.endswith("its name differs from Noonan in case only")


AS_NOBODY = """
import os, sys
from pathlib import Path
from synth_pipeline import ingest
from synth_pipeline.inbox import Inbox
from synth_pipeline.quarantine import Quarantine
from synth_pipeline.registry import Registry
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
root = Path(sys.argv[2])
done = ingest.run(
    Inbox(sys.argv[1]), Registry(root / "registry"), Quarantine(root / "quarantine"),
    seed=1, fraction=0.25, settle_s=0, sleep=lambda _: None,
)
print(*ingest.told(done), sep="\\n")
for entry in Quarantine(root / "quarantine").held():
    print(entry.file, entry.reason, sep=": ")
"""


def test_permissions_of_one_item(desk, tmp_path):
    """As a user who is not root: closed folders and files, and folders that give nothing away."""
    for place in ("a/one.png", "a/closed/x.png", "b/no.png", "c/stays.png", "d/x.png", "e/two.png"):
        desk.drop(place)
    (desk.inbox / "c" / "link.png").symlink_to("stays.png")
    place = tmp_path / "nobody"
    place.mkdir()
    if os.geteuid() == 0:
        for path in (place, desk.inbox, *desk.inbox.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
        for folder in tmp_path.parents:
            if folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o055)
        tmp_path.chmod(0o755)
    for name, mode in (("a/closed", 0), ("b/no.png", 0), ("c", 0o555), ("d", 0)):
        (desk.inbox / name).chmod(mode)
    ended = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(desk.inbox), str(place)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    for name in ("a/closed", "c", "d"):
        (desk.inbox / name).chmod(0o755)
    assert not ended.stderr, ended.stderr
    told = ended.stdout.splitlines()
    assert told[0] == "3 accepted: a 1, c 1, e 1"
    assert told[1] == "5 left, cannot be read: a 1, b 1, c 2, d 1"
    assert sorted(told[2:]) == [
        "a/closed: is a folder that cannot be read (Permission denied)",
        "b/no.png: cannot be read (Permission denied)",
        "c/link.png: is a link, which is not followed; give the file itself",
        "c/link.png: was taken in, but cannot be removed from the inbox (Permission denied)",
        "c/stays.png: was taken in, but cannot be removed from the inbox (Permission denied)",
        "d: is a folder that cannot be read (Permission denied)",
    ]
    assert desk.left() == ["a/closed/x.png", "b/no.png", "c/link.png", "c/stays.png", "d/x.png"]


def bytes_written() -> int:
    """By this process so far, as the kernel counts."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def test_each_unusable_file_costs_the_same(desk):
    """Counted in bytes written, not in seconds: twice the files, twice the bytes."""
    written = []
    for count in (60, 120):
        for number in range(count):
            desk.drop(f"a/{count} {number}.jpg", b"no photo %d" % number)
        before = bytes_written()
        assert desk.ingest().quarantined.total() == count
        written.append(bytes_written() - before)
    assert written[1] < 2.5 * written[0], written
    assert len(desk.quarantine.held()) == 180
    assert not (desk.quarantine.folder / "quarantine.jsonl").exists()


def test_a_killed_process_leaves_its_rows_in_the_journal(tmp_path):
    quarantine = Quarantine(tmp_path / "q")
    first, second = (Held(x, "", "a", f"a/{x}", "unusable", "why", "", "") for x in "12")
    with quarantine.locked():
        quarantine.keep(first, None)
    with quarantine.locked():
        quarantine.keep(second, None)
        # What a process that is killed now leaves, in the middle of its next row.
        journal = tmp_path / "q" / "quarantine.jsonl"
        left = journal.read_bytes() + b'{"arrival":"3","wh'
        assert Quarantine(quarantine.folder).held() == [first, second]
    journal.write_bytes(left)
    assert Quarantine(quarantine.folder).held() == [first, second]
    with Quarantine(quarantine.folder).locked():
        assert not journal.exists()
    assert Quarantine(quarantine.folder).held() == [first, second]
