"""Import: what is found, set aside, split, and what each class hangs on."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from synth_pipeline import case_sources, cases
from synth_pipeline.case_sources import SourcePhoto
from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError


def write_photo(path, number, size=(70, 80)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path, "PNG")
    return path


@pytest.fixture
def source(tmp_path):
    """Three classes of five, three and one photos."""
    number = 0
    for name, count in (("Noonan", 5), ("Williams Beuren", 3), ("rare", 1)):
        for place in range(count):
            write_photo(tmp_path / "source" / name / f"Jane_Doe_{place}.png", number)
            number += 1
    return tmp_path / "source"


def imported(source, out_dir, seed=42, **changes):
    config = CasesConfig(source=str(source), **changes)
    out_dir.mkdir()
    cases.run(config, photos=case_sources.scan(config), seed=seed, out_dir=out_dir)
    return cases.load(out_dir)


def test_folder_is_imported_and_split(source, tmp_path):
    case_set = imported(source, tmp_path / "out")
    assert case_set.classes == ("noonan", "rare", "williams-beuren")
    assert case_set.class_name("williams-beuren") == "Williams Beuren"
    assert [len(case_set.train(name)) for name in case_set.classes] == [4, 1, 2]
    assert sorted(case.class_id for case in case_set.test()) == ["noonan", "williams-beuren"]
    for case in case_set.cases:
        with Image.open(case.path) as image:
            assert image.mode == "RGB" and image.info == {}


def test_no_name_of_a_photo_is_kept(source, tmp_path):
    imported(source, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert "Jane" not in path.name
        if path.is_file():
            assert b"Jane" not in path.read_bytes()


def test_same_photos_same_bytes_wherever_they_lie(source, tmp_path):
    imported(source, tmp_path / "a")
    moved = tmp_path / "elsewhere"
    shutil.copytree(source, moved)
    for place, path in enumerate(sorted(moved.rglob("*.png"))):
        path.rename(path.with_name(f"renamed_{place}.png"))
    imported(moved, tmp_path / "b")
    for name in ("cases.parquet",):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    config = CasesConfig(source=str(source))
    other = CasesConfig(source=str(moved))
    assert case_sources.source_digest(case_sources.scan(config)) == case_sources.source_digest(
        case_sources.scan(other)
    )


def test_new_photo_of_one_class_leaves_the_others_alone(source, tmp_path):
    before = imported(source, tmp_path / "a")
    write_photo(source / "Noonan" / "new.png", 99)
    after = imported(source, tmp_path / "b")
    for name in ("rare", "williams-beuren"):
        assert (
            cases.parts(tmp_path / "a")[f"train/{name}"]
            == (cases.parts(tmp_path / "b")[f"train/{name}"])
        )
    assert len(after.cases) == len(before.cases) + 1


def test_held_out_photo_changes_no_training_part(source, tmp_path):
    config = CasesConfig(source=str(source))
    photos = case_sources.scan(config)
    fixed = [SourcePhoto(p.path, p.class_name, None, "train") for p in photos]
    extra = SourcePhoto(write_photo(tmp_path / "x.png", 77), "Noonan", None, "test")
    found = []
    for number, chosen in enumerate((fixed, [*fixed, extra])):
        out_dir = tmp_path / str(number)
        out_dir.mkdir()
        cases.run(config, photos=chosen, seed=1, out_dir=out_dir)
        found.append(cases.parts(out_dir))
    assert found[0].pop("test") != found[1].pop("test")
    assert found[0] == found[1]


def test_what_cannot_be_used_is_set_aside_with_its_reason(source, tmp_path):
    (source / "Noonan" / "photo.jpg").write_text("hello")
    (source / "Noonan" / "caption.txt").write_text("hello")
    (source / "Noonan" / ".hidden").write_text("hello")
    (source / "Noonan" / "Thumbs.db").write_bytes(b"x")
    shutil.copy(source / "Noonan" / "Jane_Doe_0.png", source / "Noonan" / "again.png")
    shutil.copy(source / "Noonan" / "Jane_Doe_1.png", source / "Williams Beuren" / "clash.png")
    case_set = imported(source, tmp_path / "out")
    reasons = {(entry.class_id, entry.reason) for entry in cases.quarantine(tmp_path / "out")}
    assert reasons == {
        ("noonan", "is no JPEG, PNG, WebP, BMP or TIFF picture"),
        ("noonan", cases.DUPLICATE),
        ("noonan", cases.CLASH),
        ("williams-beuren", cases.CLASH),
    }
    # Of the equal ones in one class one stays; of those in two classes none.
    assert sum(case.class_id == "noonan" for case in case_set.cases) == 4


def test_link_that_leaves_the_folder_is_not_followed(source, tmp_path):
    outside = write_photo(tmp_path / "outside.png", 50)
    (source / "Noonan" / "link.png").symlink_to(outside)
    assert len(imported(source, tmp_path / "out").cases) == 9


def test_class_without_a_readable_photo_is_listed(source, tmp_path):
    (source / "rare" / "Jane_Doe_0.png").write_bytes(b"broken")
    case_set = imported(source, tmp_path / "out")
    assert "rare" not in case_set.classes
    assert list(case_set.failed) == ["rare"]
    assert "cases check" in case_set.failed["rare"]


def _empty(source):
    shutil.rmtree(source)
    source.mkdir()


def _no_class_folders(source):
    _empty(source)
    write_photo(source / "a.png", 1)


def _empty_class(source):
    (source / "empty").mkdir()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (shutil.rmtree, "does not exist"),
        (_empty, "holds no photo"),
        (_no_class_folders, "no class folders"),
        (_empty_class, "class folder empty"),
    ],
)
def test_wrong_source_is_one_sentence(source, damage, complaint):
    damage(source)
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        case_sources.scan(CasesConfig(source=str(source)))
    assert complaint in str(caught.value)


def test_one_class_left_is_one_sentence_and_nothing_is_claimed(source, tmp_path):
    for name in ("rare", "Noonan"):
        for path in (source / name).iterdir():
            path.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"^Fewer than two classes[^\n]*$") as caught:
        imported(source, tmp_path / "out")
    assert "Jane" not in str(caught.value)


def test_max_classes_takes_the_first_by_name(source, tmp_path):
    case_set = imported(source, tmp_path / "out", max_classes=2)
    assert case_set.classes == ("noonan", "williams-beuren")


def test_csv_decides_subject_and_split(source, tmp_path):
    lines = ["file,class,subject,split"]
    for place, path in enumerate(sorted(source.rglob("*.png"))):
        split = "test" if place % 3 == 0 else "train"
        lines.append(f"{path.relative_to(source)},{path.parent.name},p{place},{split}")
    (source / "cases.csv").write_text("\n".join(lines) + "\n")
    case_set = imported(source, tmp_path / "out", format="csv")
    assert len(case_set.test()) == 3
    assert "p0" not in {case.subject_id for case in case_set.cases}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name,class\na,b\n", "lacks the column file"),
        ("file,class\nmissing.png,b\n", "line 2: the file it names does not exist"),
        ("file,class\n../outside.png,b\n", "outside the folder"),
        ("file,class\n,b\n", "line 2: a value is missing"),
        ("file,class,split\nNoonan/Jane_Doe_0.png,b,maybe\n", "neither train nor test"),
    ],
)
def test_wrong_table_is_one_sentence(source, text, complaint):
    write_photo(source.parent / "outside.png", 3)
    (source / "cases.csv").write_text(text)
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        case_sources.scan(CasesConfig(source=str(source), format="csv"))
    assert complaint in str(caught.value)


def test_rdface_layout(tmp_path):
    for number in range(4):
        abbr = "AB" if number < 2 else "CD"
        write_photo(tmp_path / "rd" / "rd_images" / abbr / f"{abbr}.{number}.png", number)
    rows = [
        f"{a}.{n}.png,disease of {a},{a}" for a, n in (("AB", 0), ("AB", 1), ("CD", 2), ("CD", 3))
    ]
    table = tmp_path / "rd" / "disease_images.csv"
    table.write_text("\n".join(["image_name,disease_name,disease_abbr", *rows]) + "\n")
    case_set = imported(tmp_path / "rd", tmp_path / "out", format="rdface")
    assert case_set.classes == ("ab", "cd")
    assert len(case_set.test()) == 2


def split(sizes, seed, fraction=0.25):
    """Split classes of given subjects; each subject has one to three photos."""
    kept = {}
    for class_id, subjects in sizes.items():
        for subject in range(subjects):
            for photo in range(1 + subject % 3):
                name = f"case-{class_id}{subject}{photo}"
                kept[name] = (SourcePhoto(None, class_id, f"s{subject}"), class_id)
    return kept, cases._split(kept, subjects_of(kept), fraction, seed)


def subjects_of(kept) -> dict[str, str]:
    return {name: f"{class_id}/{photo.subject}" for name, (photo, class_id) in kept.items()}


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), min_size=2),
    seed=st.integers(0, 1000),
    shuffle=st.randoms(use_true_random=False),
)
def test_split_keeps_subjects_whole_and_every_class_trainable(sizes, seed, shuffle):
    kept, splits = split(sizes, seed)
    sides = {}
    for name, (photo, class_id) in kept.items():
        sides.setdefault((class_id, photo.subject), set()).add(splits[name])
    assert all(len(side) == 1 for side in sides.values())
    for class_id, subjects in sizes.items():
        trained = sum(side == {"train"} for (c, _), side in sides.items() if c == class_id)
        assert trained >= 1
        assert (trained == subjects) == (subjects == 1)
    order = list(kept)
    shuffle.shuffle(order)
    turned = {name: kept[name] for name in order}
    assert cases._split(turned, subjects_of(kept), 0.25, seed) == splits


def test_split_holds_out_about_a_quarter_of_rdface():
    # 103 conditions of one to seven photos, 456 in all, as PROTOCOL tells.
    sizes = [1] * 9 + [2] * 12 + [3] * 14 + [4] * 15 + [5] * 19 + [6] * 18 + [7] * 16
    assert len(sizes) == 103
    assert abs(sum(sizes) - 456) <= 10
    kept = {}
    for class_number, count in enumerate(sizes):
        for photo in range(count):
            kept[f"case-{class_number}-{photo}"] = (
                SourcePhoto(None, str(class_number), f"s{photo}"),
                str(class_number),
            )
    held_out = sum(
        side == "test" for side in cases._split(kept, subjects_of(kept), 0.25, 42).values()
    )
    assert 0.2 < held_out / len(kept) < 0.3


def test_quarantine_table_is_typed_even_when_empty(source, tmp_path):
    imported(source, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "quarantine.parquet")
    assert table.num_rows == 0
    assert table.column_names == ["file", "class_id", "reason"]
