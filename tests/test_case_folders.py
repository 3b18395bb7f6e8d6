"""Folders of photos as people have them: persons, splits, links, thumbnails, captions."""

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from synth_pipeline import case_sources, cases
from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError
from tests.test_cases import write_photo


def lay(root: Path, *places: str) -> Path:
    """Files of different content; nothing here is decoded."""
    for place in places:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.encode())
    return root


def look(root: Path, **changes) -> case_sources.Source:
    return case_sources.look(CasesConfig(source=str(root), **changes))


def refusal(root: Path) -> str:
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        look(root)
    return str(caught.value)


def test_a_folder_below_the_class_is_a_person(tmp_path):
    lay(tmp_path, "a/p1/1.jpg", "a/p1/visit 2/2.jpg", "a/p2/3.jpg", "a/4.jpg", "b/5.jpg")
    found = {photo.path.name: photo.subject for photo in look(tmp_path).photos}
    assert found == {"1.jpg": "p1", "2.jpg": "p1", "3.jpg": "p2", "4.jpg": None, "5.jpg": None}


def test_no_child_is_on_both_sides(tmp_path):
    for number in range(18):
        write_photo(tmp_path / "in" / "ab"[number % 2] / f"p{number % 3}" / f"{number}.png", number)
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    config = CasesConfig(source=str(tmp_path / "in"))
    cases.run(config, photos=case_sources.scan(config), seed=1, out_dir=out_dir)
    sides = {(case.subject_id, case.split) for case in cases.load(out_dir).cases}
    assert len(sides) == len({subject for subject, _ in sides}) == 6
    assert {side for _, side in sides} == {"train", "test"}


def test_persons_whose_names_differ_in_spelling_only_are_one(tmp_path):
    lay(
        tmp_path, "a/Jos\u00e9/1.jpg", "a/jose\u0301/2.jpg", "a/ana_b/3.jpg", "a/Ana B/4.jpg", "b/5"
    )
    subjects = {photo.subject for photo in look(tmp_path).photos if photo.class_name == "a"}
    assert len(subjects) == 2


def test_all_photos_of_a_class_in_one_folder_are_mentioned(tmp_path):
    lay(tmp_path, "a/images/1.jpg", "a/images/2.jpg", "b/3.jpg", "b/4.jpg")
    assert any("2 photos of a lie in one folder" in note for note in look(tmp_path).notes)


@pytest.mark.parametrize(
    "names", [("train", "test"), ("Training", "TEST", "val"), ("train", "val")]
)
def test_train_and_test_are_sides_and_no_conditions(tmp_path, names):
    for name in names:
        lay(tmp_path, f"{name}/Noonan/p{name}/1.jpg", f"{name}/Down/2.jpg")
    photos = look(tmp_path).photos
    assert Counter(photo.class_name for photo in photos) == {
        "Noonan": len(names),
        "Down": len(names),
    }
    sides = {photo.path.relative_to(tmp_path).parts[0]: photo.split for photo in photos}
    held_out = names[1]
    assert sides == {name: "test" if name == held_out else "train" for name in names}
    assert {photo.subject for photo in photos if photo.class_name == "Noonan"} == {
        f"p{name}" for name in names
    }


def test_train_and_test_below_the_class_are_sides_too(tmp_path):
    lay(tmp_path, "a/train/1.jpg", "a/train/p/2.jpg", "a/test/3.jpg", "b/4.jpg")
    found = {photo.path.name: (photo.split, photo.subject) for photo in look(tmp_path).photos}
    assert found == {
        "1.jpg": ("train", None),
        "2.jpg": ("train", "p"),
        "3.jpg": ("test", None),
        "4.jpg": (None, None),
    }


@pytest.mark.parametrize(
    ("places", "complaint"),
    [
        (("train/a/1.jpg", "test/a/2.jpg", "Noonan/3.jpg"), "beside 1 other folders"),
        (("train/a/1.jpg", "train/b/2.jpg"), "only train of a split"),
        (("train/1.jpg", "test/2.jpg"), "holds no class folders"),
        (("test/a/1.jpg", "val/b/1.jpg"), "only test and val of a split"),
        (("a/1.jpg", "b/.hidden"), "class folder b of cases.source holds no photo"),
        (("a/1.txt", "b/2.json"), "class folders a, b of cases.source hold no photo"),
    ],
)
def test_other_layouts_are_one_sentence(tmp_path, places, complaint):
    assert complaint in refusal(lay(tmp_path, *places))


def test_classes_that_are_only_held_out_are_mentioned(tmp_path):
    lay(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg", "test/c/3.jpg")
    assert "All photos of c are held out" in " ".join(look(tmp_path).notes)


JUNK = (
    *("@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", ".Trash-1000/files/deleted.jpg", "lost+found/1.jpg"),
    *(".ipynb_checkpoints/1-checkpoint.jpg", "__MACOSX/._1.jpg", ".AppleDouble/1.jpg"),
    *("#recycle/1.jpg", ".thumbnails/1.jpg", "$RECYCLE.BIN/1.jpg", ".DS_Store", "Thumbs.db"),
    *("._1.jpg", "@Recycle/1.jpg"),
)


def test_hidden_and_system_folders_are_passed_over_at_any_depth_and_counted_once(tmp_path):
    lay(tmp_path, "a/1.jpg", "a/p/2.jpg", "#1/3.jpg")
    for place in JUNK:
        lay(tmp_path, place, f"a/{place}", f"a/p/{place}")
    source = look(tmp_path)
    assert [photo.path.name for photo in source.photos] == ["3.jpg", "1.jpg", "2.jpg"]
    assert source.notes == [f"Passed over: {3 * len(JUNK)} hidden or system files and folders."]


def test_sidecars_are_no_lost_photos(tmp_path):
    number = 0
    for name in "ab":
        for place in range(2):
            write_photo(tmp_path / "in" / name / f"{place}.png", number := number + 1)
    for place in ("0.txt", "0.json", "0.XMP", "IMG_1.AAE", "IMG_1.MOV", "0.png.json"):
        lay(tmp_path / "in", f"a/{place}")
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    source = look(tmp_path / "in")
    config = CasesConfig(source=str(tmp_path / "in"))
    cases.run(config, photos=source.photos, seed=1, out_dir=out_dir)
    assert not cases.load(out_dir).lost and len(cases.load(out_dir).cases) == 4
    assert source.notes == ["Passed over: 6 files beside photos (.aae, .json, .mov, .txt, .xmp)."]


def test_links_are_followed_within_the_source_and_told_of_elsewhere(tmp_path):
    outside = lay(tmp_path, "elsewhere/x.jpg", "elsewhere/y.jpg") / "elsewhere"
    source = lay(tmp_path / "in", "a/1.jpg", "b/2.jpg")
    (source / "a" / "inside.jpg").symlink_to(source / "b" / "2.jpg")
    (source / "a" / "outside.jpg").symlink_to(outside / "x.jpg")
    (source / "a" / "gone.jpg").symlink_to(outside / "gone.jpg")
    (source / "a" / "folder").symlink_to(outside)
    (source / "a" / "loop").symlink_to(source / "a")
    (source / "a" / "itself.jpg").symlink_to("itself.jpg")
    (source / "linked").symlink_to(outside)
    (source / "round").symlink_to(source)
    (source / "nowhere").symlink_to(source / "gone")
    found = look(source)
    faults = {photo.path.name: photo.fault for photo in found.photos}
    assert {name for name, fault in faults.items() if fault is None} == {
        *("1.jpg", "2.jpg", "inside.jpg", "x.jpg", "y.jpg"),
    }
    assert faults["outside.jpg"].startswith("is a link out of cases.source")
    assert faults["gone.jpg"] == "is a link that leads nowhere"
    assert faults["folder"].startswith("is a link to a folder")
    assert faults["loop"].startswith("is a link to a folder")
    assert faults["itself.jpg"].startswith("cannot be read")
    assert faults["round"].startswith("is a link to a folder that cases.source lies in")
    assert found.notes == ["Passed over: 1 file in no class folder."]


def test_a_pipe_is_listed_and_never_opened(tmp_path):
    for number, name in enumerate("aabb"):
        write_photo(tmp_path / "in" / name / f"{number}.png", number)
    os.mkfifo(tmp_path / "in" / "a" / "pipe.jpg")
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    config = CasesConfig(source=str(tmp_path / "in"))

    def whole():
        photos = case_sources.scan(config)
        case_sources.source_digest(photos)
        cases.run(config, photos=photos, seed=1, out_dir=out_dir)

    # In a thread: opening a pipe that nobody writes to would never return.
    worker = threading.Thread(target=whole, daemon=True)
    worker.start()
    worker.join(120)
    assert not worker.is_alive()
    assert [(e.file, e.reason) for e in cases.quarantine(out_dir)] == [
        ("pipe.jpg", "is a pipe, a socket or a device, not a file")
    ]


def old(name: bytes) -> str:
    """A name out of an old archive, as Python tells it."""
    return os.fsdecode(name)


def test_names_that_are_not_utf8(tmp_path):
    for number in range(8):
        person = old(b"M\xfcller %d" % (number // 4))
        path = tmp_path / "in" / "ab"[number % 2] / person / old(b"M\xfcller_%d.png" % number)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_photo(tmp_path / "photo.png", number).rename(path)
    (tmp_path / "in" / "a" / old(b"M\xfcller.jpg")).write_bytes(b"broken")
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    config = CasesConfig(source=str(tmp_path / "in"))
    photos = case_sources.scan(config)
    case_sources.source_digest(photos)
    cases.run(config, photos=photos, seed=1, out_dir=out_dir)
    assert len(cases.load(out_dir).cases) == 8
    assert len({case.subject_id for case in cases.load(out_dir).cases}) == 4
    assert [entry.file for entry in cases.quarantine(out_dir)] == [r"M\xfcller.jpg"]


def test_a_class_folder_that_is_not_utf8_is_named_in_one_sentence(tmp_path):
    lay(tmp_path, "Down/1.jpg")
    (tmp_path / old(b"M\xf6bius")).mkdir()
    (tmp_path / old(b"M\xf6bius") / "1.jpg").write_bytes(b"x")
    told = refusal(tmp_path)
    assert r"not UTF-8 (M\xf6bius)" in told
    told.encode()


AS_NOBODY = """
import os, sys
from synth_pipeline import case_sources
from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    found = case_sources.look(CasesConfig(source=sys.argv[1], format=sys.argv[2]))
    for photo in found.photos:
        print(photo.path.name, photo.fault, sep="|")
except InputError as error:
    print("refused:", error)
"""


def as_nobody(source: Path, format: str = "imagefolder") -> list[str]:
    for folder in (source, *source.parents):
        if folder.stat().st_uid == os.geteuid() and folder != source:
            folder.chmod(folder.stat().st_mode | 0o055)
    ended = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(source), format],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(case_sources.__file__).parent.parent,
    )
    assert not ended.stderr, ended.stderr
    return ended.stdout.splitlines()


def test_folders_that_cannot_be_read_are_listed(tmp_path):
    source = lay(tmp_path / "in", "a/1.jpg", "a/p/2.jpg", "b/3.jpg", "c/4.jpg")
    source.chmod(0o755)
    for place in ("a/p", "c"):
        (source / place).chmod(0)
    (source / "b" / "3.jpg").chmod(0)
    # Whatever the mask of the process is.
    for place, mode in (("a", 0o755), ("b", 0o755), ("a/1.jpg", 0o644)):
        (source / place).chmod(mode)
    told = [line.split("|") for line in as_nobody(source)]
    fault = "is a folder that cannot be read (Permission denied)"
    assert told == [
        ["1.jpg", "None"],
        ["p", fault],
        ["3.jpg", "cannot be read (Permission denied)"],
        ["c", fault],
    ]


@pytest.mark.parametrize(("format", "mode"), [("imagefolder", 0), ("csv", 0), ("csv", 0o444)])
def test_a_source_that_cannot_be_read_is_one_sentence(tmp_path, format, mode):
    source = lay(tmp_path / "in", "a/1.jpg", "b/3.jpg")
    (source / "cases.csv").write_text("file,class\na/1.jpg,a\nb/3.jpg,b\n")
    source.chmod(mode)
    (told,) = as_nobody(source, format)
    assert told.startswith("refused: ")
    assert "1.jpg" not in told
