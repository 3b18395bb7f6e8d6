"""The registry: a case once in it stays as it is, and a changed byte is found."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from synth_pipeline.errors import InputError
from synth_pipeline.photos import sanitise
from synth_pipeline.registry import Entry, Registry


def entry(class_id: str, subject: str, split: str) -> Entry:
    name = hashlib.sha256(f"{class_id}{subject}".encode()).hexdigest()
    return Entry(name[:8], class_id, class_id, subject, split, name, "", 1, 1, "", "0" * 16)


def add(registry: Registry, image, class_name: str, subject=None, **options):
    arrival = hashlib.sha256(image.tobytes()).hexdigest()
    with registry.locked():
        return registry.add(
            image,
            class_name=class_name,
            subject=subject,
            arrival=arrival,
            **{"seed": 1, "fraction": 0.25, **options},
        )


@pytest.fixture
def faces(phantom_files):
    return [sanitise(path).image for paths in phantom_files.values() for path in paths]


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry")


def test_what_is_added_is_there_and_private(registry, faces):
    for number, face in enumerate(faces[:4]):
        assert add(registry, face, "Noonan", f"Jane Doe {number}").outcome == "accepted"
    again = Registry(registry.folder)
    assert [e.class_id for e in again.entries] == ["noonan"] * 4
    again.verify()
    for path in [registry.folder, *registry.folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
        assert not path.is_file() or b"Jane" not in path.read_bytes()
    with Image.open(again.image(again.entries[0])) as image:
        assert image.tobytes() == faces[0].tobytes()
        assert image.info == {}


def test_it_is_only_added_to(registry, faces):
    add(registry, faces[0], "a")
    before = (registry.folder / "cases.jsonl").read_bytes().splitlines()[1:]
    add(registry, faces[1], "b")
    assert (registry.folder / "cases.jsonl").read_bytes().splitlines()[1:2] == before


def changed(image, how):
    return {
        "same": lambda: image,
        "smaller": lambda: image.resize((90, 90)),
        "darker": lambda: ImageEnhance.Brightness(image).enhance(0.6),
        "grey": lambda: image.convert("L").convert("RGB"),
        "mirrored": lambda: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }[how]()


@pytest.mark.parametrize("how", ["same", "smaller", "darker", "grey", "mirrored"])
def test_a_photo_is_counted_once_however_it_was_saved(registry, faces, how):
    for face in faces[:6]:
        assert add(registry, face, "a").outcome == "accepted"
    for face in faces[:6]:
        verdict = add(registry, changed(face, how), "a")
        assert verdict.outcome == "duplicate"
        assert verdict.case_id in verdict.reason
    assert len(registry.entries) == 6
    assert len(list((registry.folder / "images").iterdir())) == 6


def test_the_same_photo_in_another_class_is_a_clash_and_the_first_stays(registry, faces):
    add(registry, faces[0], "Noonan")
    verdict = add(registry, faces[0], "Williams")
    assert verdict.outcome == "clash"
    assert "noonan" in verdict.reason
    assert [e.class_id for e in registry.entries] == ["noonan"]


def test_different_faces_are_different_cases(registry, faces):
    assert {add(registry, face, "a").outcome for face in faces} == {"accepted"}


def test_names_that_are_shown_alike_are_one_class(registry, faces):
    add(registry, faces[0], "Noonan_syndrome")
    add(registry, faces[1], "Noonan  syndrome")
    add(registry, faces[2], "Mo\u0308bius")
    add(registry, faces[3], "M\u00f6bius")
    assert [(e.class_id, e.class_name) for e in registry.entries[:2]] == [
        ("noonan-syndrome", "Noonan syndrome")
    ] * 2
    assert len({(e.class_id, e.class_name) for e in registry.entries[2:]}) == 1


def test_names_that_differ_in_case_are_two_classes_as_in_a_folder(registry, faces):
    names = ["Noonan", "noonan", "noonan-2", "noonan"]
    for face, name in zip(faces, names, strict=False):
        add(registry, face, name)
    ids = [e.class_id for e in registry.entries]
    assert ids[0] == "noonan" and ids[2] == "noonan-2"
    assert ids[1] == ids[3] and len(set(ids)) == 3
    assert [e.class_name for e in registry.entries] == names


def test_an_id_once_given_stays_whatever_other_names_come(registry, faces):
    add(registry, faces[0], "疾患一")
    add(registry, faces[1], "疾患二")
    add(registry, faces[2], "class")
    add(registry, faces[3], "疾患一")
    ids = [e.class_id for e in registry.entries]
    assert ids[2] == "class" and ids[0] == ids[3] and len(set(ids)) == 3


def test_an_id_that_an_earlier_version_gave_stays(registry, faces):
    old = entry("class-2", "someone", "train")
    registry.entries = [dataclasses.replace(old, class_name="疾患二")]
    assert registry.class_id("疾患二") == "class-2"
    assert registry.class_id("class 2") != "class-2"


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=60),
    seed=st.integers(0, 1000),
    fraction=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
)
def test_sides(tmp_path_factory, arrivals, seed, fraction):
    """Nobody moves; a class's first is for training; each class is near its share."""
    registry = Registry(tmp_path_factory.getbasetemp() / "nowhere")
    sides: dict = {}
    entries: list = []
    for class_id, number in arrivals:
        subject = f"{class_id}{number}"
        registry.entries = entries
        side = registry.side(class_id, subject, seed=seed, fraction=fraction)
        assert side == registry.side(class_id, subject, seed=seed, fraction=fraction)
        assert side == sides.setdefault(subject, side), "a subject moved"
        entries = [*entries, entry(class_id, subject, side)]
        of_class = [s for name, s in sides.items() if name[0] == class_id]
        held_out = of_class.count("test")
        assert of_class[0] == "train"
        assert held_out < len(of_class) * fraction + 1
        # The first cannot be held out, and what the share owes is paid as soon as it is a whole.
        assert held_out > len(of_class) * fraction - 1 or len(of_class) == 1


def test_the_share_is_held_out_of_classes_like_rdfaces():
    """One photo after another, 103 conditions of one to seven people, 451 in all."""
    sizes = [1] * 9 + [2] * 12 + [3] * 14 + [4] * 15 + [5] * 19 + [6] * 18 + [7] * 16
    shares = []
    for seed in range(5):
        held_out = 0
        for number, size in enumerate(sizes):
            registry = Registry(None)
            registry.entries = []
            for person in range(size):
                subject = f"{number} {person}"
                side = registry.side("c", subject, seed=seed, fraction=0.25)
                registry.entries = [*registry.entries, entry("c", subject, side)]
                held_out += side == "test"
        shares.append(held_out / sum(sizes))
    assert 0.23 < np.mean(shares) < 0.28, shares


def test_a_known_subject_goes_to_its_own_side(registry, faces):
    photos = iter(faces)
    for person in range(6):
        add(registry, next(photos), "a", f"p{person}", fraction=0.5)
    sides = {e.subject_id: e.split for e in registry.entries}
    assert set(sides.values()) == {"train", "test"}
    for person in range(6):
        # Whatever the share and the seed are now.
        add(registry, next(photos), "a", f"p{person}", fraction=0.0, seed=9)
    assert {e.subject_id: e.split for e in registry.entries} == sides
    assert len(registry.entries) == 12


def damaged(path, how):
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "short":
        path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])
    else:
        place = {"first": 0, "middle": len(content) // 2, "last": -1}[how]
        content = bytearray(content)
        content[place] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["first", "middle", "last", "short", "gone"])
def test_damage_to_the_index_is_found_and_said(registry, faces, how):
    for face in faces[:3]:
        add(registry, face, "a")
    damaged(registry.folder / "cases.jsonl", how)
    again = Registry(registry.folder)
    with pytest.raises(InputError, match=r"^The case registry [^\n]*backup\.$"):
        _ = again.entries
    with pytest.raises(InputError, match="backup"):
        add(again, faces[4], "a")
    assert len(list((registry.folder / "images").iterdir())) == 3, "photos were swept"


@pytest.mark.parametrize("how", ["middle", "gone"])
def test_damage_to_a_photo_is_found_and_said(registry, faces, how):
    for face in faces[:3]:
        add(registry, face, "a")
    path = registry.image(registry.entries[1])
    damaged(path, how)
    with pytest.raises(InputError, match=path.name):
        Registry(registry.folder).verify()


def test_two_at_once_are_refused(registry):
    with (
        registry.locked(),
        pytest.raises(InputError, match="Another process"),
        Registry(registry.folder).locked(),
    ):
        pass


def test_what_was_announced_is_remembered(registry, faces):
    for face in faces[:3]:
        add(registry, face, "a")
    assert len(registry.unannounced()) == 3
    registry.announced(2)
    assert [e.case_id for e in Registry(registry.folder).unannounced()] == [
        registry.entries[2].case_id
    ]
    (registry.folder / "announced.json").write_text("{")
    assert len(registry.unannounced()) == 3


def test_a_half_written_picture_is_swept(registry, faces):
    add(registry, faces[0], "a")
    (registry.folder / "images" / ".case-x.png-abc").write_bytes(b"half")
    (registry.folder / "images" / "case-0000.png").write_bytes(b"never in the index")
    add(registry, faces[1], "a")
    registry.verify()
    assert len(list((registry.folder / "images").iterdir())) == 2
    lines = (registry.folder / "cases.jsonl").read_bytes().splitlines()
    assert json.loads(lines[0])["count"] == 2
