"""One photo again is known, whatever was done to it; two people on one wall are two people."""

import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from synth_pipeline import cases
from synth_pipeline.case_sources import SourcePhoto, scan, source_digest
from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import PassingError
from synth_pipeline.near_duplicates import LEAK, NEAR_CLASH, near_duplicates
from synth_pipeline.phantom.dataset import make_dataset
from synth_pipeline.registry import Registry


@pytest.fixture(scope="module")
def people(landmark_model, tmp_path_factory) -> list[Image.Image]:
    """Twelve phantoms of three classes, 192 px."""
    folder = tmp_path_factory.mktemp("people") / "made"
    sizes = {"classes": 3, "per_class": 4, "test_per_class": 0, "size_px": 192}
    make_dataset(folder, **sizes, seed=5, mesh_path=landmark_model)
    found = []
    for path in sorted((folder / "images").rglob("*.png")):
        with Image.open(path) as opened:
            found.append(opened.convert("RGB"))
    return found


def cropped(image):
    width, height = image.size
    return image.crop((int(width * 0.1), int(height * 0.08), int(width * 0.92), int(height * 0.95)))


REPRINTS = {
    "cropped": cropped,
    "cropped and mirrored": lambda image: ImageOps.mirror(cropped(image)),
    "cropped and larger": lambda image: cropped(image).resize((400, 420), Image.Resampling.BICUBIC),
    "in a border": lambda image: ImageOps.expand(image, 50, (250, 250, 250)),
    "a little turned": lambda image: image.rotate(6, Image.Resampling.BICUBIC),
    "turned and cropped": lambda image: cropped(image.rotate(-9, Image.Resampling.BICUBIC)),
    "turned by a quarter": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "upside down": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turned back": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "smaller": lambda image: image.resize((96, 96)),
}


def saved(folder, images):
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(files, images, strict=True):
        image.save(path)
    return files


def test_one_photo_again_is_known_and_other_people_are_not(people, landmark_model, tmp_path):
    again = [change(people[0]) for change in REPRINTS.values()]
    files = saved(tmp_path / "photos", [*people, *again])
    found = near_duplicates(files, landmark_model)
    shown = {0, *range(len(people), len(files))}
    assert {pair for pair in found if not set(pair) <= shown} == set()
    known = {j for i, j in found if i == 0}
    missed = [name for n, name in enumerate(REPRINTS, start=len(people)) if n not in known]
    assert not missed


def portrait(person, share, *, number):
    """Somebody on a plain wall, the face so much of the width; a passport photo's frame."""
    side = round(320 * share * 1.6)
    face = person.resize((side, side), Image.Resampling.LANCZOS)
    oval = Image.new("L", face.size)
    ImageDraw.Draw(oval).ellipse((side * 0.15, side * 0.04, side * 0.85, side * 0.98), fill=255)
    wall = Image.new("RGB", (320, 320), (205, 206, 210))
    ImageDraw.Draw(wall).ellipse((160 - side, 60 + side, 160 + side, 600), fill="navy")
    noise = np.random.default_rng(number).normal(0, 1.5, (320, 320, 3))
    wall.paste(face, ((320 - side) // 2, 60), oval.filter(ImageFilter.GaussianBlur(side / 60)))
    return Image.fromarray((np.asarray(wall) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_people_on_one_wall_are_not_one_picture(people, landmark_model, tmp_path, share):
    """In the same class they stay different people, in two classes no diagnosis is doubted."""
    portraits = [portrait(person, share, number=n) for n, person in enumerate(people[::2])]
    files = saved(tmp_path / "photos", portraits)
    photos = [SourcePhoto(path, "ab"[n % 2]) for n, path in enumerate(files)]
    for model in (landmark_model, None):
        out_dir = tmp_path / f"out {model is None}"
        out_dir.mkdir()
        cases.run(
            CasesConfig(source="x"), photos=photos, seed=0, out_dir=out_dir, landmark_model=model
        )
        assert cases.quarantine(out_dir) == []
        assert len({case.subject_id for case in cases.load(out_dir).cases}) == len(files)


def imported(out_dir, photos, model):
    out_dir.mkdir()
    cases.run(CasesConfig(source="x"), photos=photos, seed=0, out_dir=out_dir, landmark_model=model)
    return cases.load(out_dir), cases.quarantine(out_dir)


def test_cropped_photo_is_one_person_in_its_class_and_a_clash_in_another(
    people, landmark_model, tmp_path
):
    files = saved(tmp_path / "photos", [*people[:4], cropped(people[0])])
    others = [SourcePhoto(path, "ab"[n % 2]) for n, path in enumerate(files[:4])]
    found, aside = imported(tmp_path / "one", [*others, SourcePhoto(files[4], "a")], landmark_model)
    assert not aside
    assert len(found.cases) == 5 and len({case.subject_id for case in found.cases}) == 4
    _, aside = imported(tmp_path / "two", [*others, SourcePhoto(files[4], "b")], landmark_model)
    assert [(entry.file, entry.reason) for entry in aside] == [
        ("0.png", NEAR_CLASH),
        ("4.png", NEAR_CLASH),
    ]


@pytest.mark.parametrize("how", ["the same file", "the same pixels", "cropped"])
@pytest.mark.parametrize("class_name", ["a", "b"])
def test_held_out_photo_that_shows_a_training_photo_yields(
    people, landmark_model, tmp_path, how, class_name
):
    """Whatever its class: the training is what it is without it."""
    files = saved(tmp_path / "photos", people[:4])
    train = [SourcePhoto(path, "ab"[n % 2], split="train") for n, path in enumerate(files)]
    again = tmp_path / "photos" / "again.png"
    if how == "the same file":
        shutil.copy(files[0], again)
    else:
        # Another compression: other bytes, which may come first by their hash.
        (cropped(people[0]) if how == "cropped" else people[0]).save(again, compress_level=1)
    held_out = SourcePhoto(again, class_name, split="test")
    imported(tmp_path / "without", train, landmark_model)
    found, aside = imported(tmp_path / "with", [*train, held_out], landmark_model)
    assert [entry.file for entry in aside] == ["again.png"]
    assert aside[0].reason in (LEAK, cases.DUPLICATE)
    assert cases.parts(tmp_path / "with") == cases.parts(tmp_path / "without")
    assert not found.test()


def test_registry_knows_a_cropped_photo_again_also_after_a_restart(
    people, landmark_model, tmp_path
):
    def add(registry, image, class_name):
        return registry.add(
            image, class_name=class_name, subject=None, arrival=class_name, seed=0, fraction=0.0
        )

    first = Registry(tmp_path / "registry", landmark_model)
    with first.locked():
        assert [add(first, person, "a").outcome for person in people[:3]] == ["accepted"] * 3
        assert add(first, cropped(people[1]), "a").outcome == "duplicate"
    for name in ("damaged", "as it is"):
        again = Registry(tmp_path / "registry", landmark_model)
        if name == "damaged":
            prints = sorted((tmp_path / "registry" / "fingerprints").rglob("*.npz"))
            prints[0].write_bytes(b"cut")
            prints[1].unlink()
        with again.locked():
            assert add(again, cropped(people[1]), "b").outcome == "clash"
    assert len(again.entries) == 3
    for path in (tmp_path / "registry" / "fingerprints").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_photos_that_change_while_they_are_imported_are_not_stored_under_the_old_key(
    people, tmp_path
):
    for number, person in enumerate(people[:4]):
        folder = tmp_path / "source" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        person.save(folder / f"{number}.png")
    config = CasesConfig(source=str(tmp_path / "source"))
    photos = scan(config)
    seen = source_digest(photos)
    people[5].save(photos[0].path)
    (tmp_path / "out").mkdir()
    with pytest.raises(PassingError, match="changed while they were imported; run again"):
        cases.run(config, photos=photos, seed=0, out_dir=tmp_path / "out", source_digest=seen)


def test_photo_that_cannot_be_read_now_stops_the_import(people, tmp_path):
    files = saved(tmp_path / "Jane Doe", people[:2])
    photos = [SourcePhoto(path, "ab"[n]) for n, path in enumerate(files)]
    files[1].unlink()
    for stopped in (
        lambda: source_digest(photos),
        lambda: imported(tmp_path / "out", photos, None),
    ):
        with pytest.raises(PassingError, match="nothing was set aside") as caught:
            stopped()
        assert "Jane" not in str(caught.value)
    assert not (tmp_path / "out" / "quarantine.parquet").exists()
