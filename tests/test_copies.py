"""The copy audit: planted copies are found, and other people are left alone."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from synth_pipeline import copies, landmarks, likeness
from synth_pipeline.appearance import Appearance
from synth_pipeline.config import CopiesConfig
from synth_pipeline.phantom.dataset import make_dataset


def _resized(picture: Image.Image) -> Image.Image:
    half = (picture.width // 2, picture.height // 2)
    return picture.resize(half, Image.Resampling.BILINEAR)


def _recompressed(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=40)
    return Image.open(stream).convert("RGB")


def _colour_shifted(picture: Image.Image) -> Image.Image:
    shifted = np.asarray(picture) * np.array([1.15, 0.95, 0.85]) + 8
    return Image.fromarray(shifted.clip(0, 255).astype(np.uint8))


def _warped(picture: Image.Image) -> Image.Image:
    """Turned by 3 degrees, 4 % larger, and sheared a little."""
    c, s = 0.9986 / 1.04, 0.0523 / 1.04
    x, y = picture.width / 2, picture.height / 2
    matrix = (c, s + 0.02, x - c * x - (s + 0.02) * y, -s, c, y + s * x - c * y)
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=(90,) * 3
    )


PLANTED = {
    "same": lambda picture: picture,
    "resized": _resized,
    "recompressed": _recompressed,
    "mirrored": ImageOps.mirror,
    "colour-shifted": _colour_shifted,
    "warped": _warped,
}


@pytest.fixture(scope="module")
def crowd(landmark_model, tmp_path_factory) -> dict[str, list[Path]]:
    """Eight classes of 30 phantoms, each of another person."""
    folder = tmp_path_factory.mktemp("crowd") / "made"
    make_dataset(
        folder,
        classes=8,
        per_class=5,
        test_per_class=25,
        size_px=64,
        seed=3,
        mesh_path=landmark_model,
    )
    return {path.name: sorted(path.glob("*.png")) for path in sorted((folder / "images").iterdir())}


def photos(crowd, classes: int = 8, each: int = 5):
    return {
        name: [(f"{name}-{n}", f"{name}-{n}", path) for n, path in enumerate(files[:each])]
        for name, files in list(crowd.items())[:classes]
    }


@pytest.fixture
def audit(landmark_model, tmp_path):
    """Audit `synthetic` against `real`, with landmarks as MediaPipe finds them."""
    count = itertools.count()

    def find(images) -> Path:
        folder = tmp_path / f"landmarks-{next(count)}"
        folder.mkdir()
        landmarks.run(
            images, model=landmark_model, out_dir=folder, class_id="made", real_photos=False
        )
        return folder

    def run(out_dir: Path, real, synthetic: list[Path], rate: float = 0.01):
        out_dir.mkdir(exist_ok=True)
        found = find([(case_id, path) for group in real.values() for case_id, _, path in group])
        made = find([(f"{index:05d}", path) for index, path in enumerate(synthetic)])
        done = copies.run(
            CopiesConfig(false_alarm_rate=rate),
            real=real,
            synthetic={"made": list(enumerate(synthetic))},
            real_landmarks=dict.fromkeys(real, found),
            synthetic_landmarks={"made": made},
            landmark_model=landmark_model,
            out_dir=out_dir,
        )
        rows = pq.read_table(out_dir / "copies.parquet").to_pylist()
        assert done["copies"] == sum(bool(row["copy"]) for row in rows)
        return rows, json.loads((out_dir / "thresholds.json").read_text())

    return run


@pytest.mark.parametrize("change", PLANTED)
def test_planted_copies_are_found_and_their_photo_is_named(audit, crowd, tmp_path, change):
    real = photos(crowd)
    originals = [photo for group in real.values() for photo in group]
    planted = []
    for case_id, _, path in originals:
        planted.append(tmp_path / f"{case_id}.png")
        PLANTED[change](Image.open(path).convert("RGB")).save(planted[-1])
    rows, _ = audit(tmp_path, real, planted)
    assert [row["copy"] for row in rows] == [True] * 40
    assert [row["nearest_case_id"] for row in rows] == [case_id for case_id, _, _ in originals]


@pytest.mark.parametrize(("count", "allowed"), [(15, 0.02), (40, 0.025), (100, 0.015)])
def test_other_people_raise_the_alarm_about_as_often_as_stated(
    crowd, landmark_model, tmp_path, count, allowed
):
    """Stated is 1 %. The mean over 60 draws of people: 1.0, 1.7 and 1.0 %.

    One draw says little (up to 16 % with 40 photos), so this is the mean of 40 draws.
    """
    files = [path for group in crowd.values() for path in group]
    landmarks.run(
        [(str(place), path) for place, path in enumerate(files)],
        model=landmark_model,
        out_dir=tmp_path,
        class_id="crowd",
        real_photos=True,
    )
    gallery = copies.Gallery(files, landmarks.load(tmp_path).points_px, landmark_model)
    between = gallery.distances(gallery.photos)
    shares = []
    for draw in range(40):
        order = np.random.default_rng(draw).permutation(len(files))
        own, others = order[:count], order[count:]
        thresholds = copies.calibrate(
            CopiesConfig(false_alarm_rate=0.01),
            [str(person) for person in own],
            {name: values[np.ix_(own, own)] for name, values in between.items()},
        )
        found = {name: values[np.ix_(others, own)] for name, values in between.items()}
        shares.append(np.mean([copy for _, _, copy in copies._nearest(found, thresholds)]))
    assert np.mean(shares) <= allowed


def test_few_photos_are_said(audit, crowd, tmp_path):
    _, thresholds = audit(tmp_path, photos(crowd, classes=3), [crowd[next(iter(crowd))][9]])
    assert thresholds["photos"] == 15
    assert "few photos" in thresholds["calibration"]


def test_a_row_agrees_with_the_thresholds(audit, crowd, tmp_path):
    real = photos(crowd)
    mixed = [files[n] for files in crowd.values() for n in (0, 9)]
    rows, thresholds = audit(tmp_path, real, mixed)
    assert {row["copy"] for row in rows} == {False, True}
    for row in rows:
        # Without a network there is no distance of embeddings.
        near = any(
            row[f"{measure}_distance"] <= thresholds[f"{measure}_distance"]
            for measure in likeness.MEASURES
            if measure != "embedding"
        )
        assert row["copy"] == near


def test_photos_of_one_subject_do_not_calibrate(audit, crowd, tmp_path):
    """Two near pictures of one person would otherwise push the thresholds down to nothing."""
    real = photos(crowd)
    (name, (case_id, subject, path)) = next((name, group[0]) for name, group in real.items())
    same_again = tmp_path / "again.png"
    _recompressed(Image.open(path).convert("RGB")).save(same_again)
    _, without = audit(tmp_path / "without", real, [same_again])
    _, one_subject = audit(
        tmp_path / "one",
        real | {name: [*real[name], (f"{case_id}-again", subject, same_again)]},
        [same_again],
    )
    _, another = audit(
        tmp_path / "two",
        real | {name: [*real[name], (f"{case_id}-again", "somebody else", same_again)]},
        [same_again],
    )
    assert one_subject["pixels_distance"] == pytest.approx(without["pixels_distance"], rel=0.1)
    assert another["pixels_distance"] < 0.5 * without["pixels_distance"]


def test_mirrored_photos_of_other_people_calibrate_too(audit, crowd, tmp_path):
    real = photos(crowd)
    name = next(iter(real))
    mirrored = tmp_path / "mirrored.png"
    ImageOps.mirror(Image.open(real[name][0][2]).convert("RGB")).save(mirrored)
    _, thresholds = audit(
        tmp_path, real | {name: [*real[name], ("m", "somebody else", mirrored)]}, [mirrored]
    )
    assert thresholds["pixels_distance"] < 0.01


def test_one_subject_alone_leaves_the_fixed_thresholds_and_says_so(audit, crowd, tmp_path):
    name, files = next(iter(crowd.items()))
    real = {name: [(f"case-{n}", "one person", path) for n, path in enumerate(files[:3])]}
    rows, thresholds = audit(tmp_path, real, [files[0], files[9]])
    assert thresholds["calibration"].startswith("none")
    assert rows[0]["copy"]


def test_features_of_a_network_are_compared_where_one_is_asked_for(crowd, landmark_model, tmp_path):
    files = [files[0] for files in crowd.values()]
    points_px = np.full((len(files), 478, 3), np.nan)
    look = Appearance("mobilenetv3_small_075", "embedded", 64)
    gallery = copies.Gallery(files, points_px, landmark_model, look=look)
    again = tmp_path / "again.png"
    _recompressed(Image.open(files[2]).convert("RGB")).save(again)
    pictures = likeness.describe([again, files[5]], points_px[:2], look=look)
    apart = gallery.distances(pictures)["embedding"]
    assert apart.argmin(1).tolist() == [2, 5]
    assert apart[1, 5] == pytest.approx(0, abs=1e-6)
    between = gallery.distances(gallery.photos)["embedding"]
    assert apart[0, 2] < 0.5 * np.median(between[~np.eye(len(files), dtype=bool)])


def test_a_black_image_is_no_copy(audit, crowd, tmp_path):
    black = tmp_path / "black.png"
    Image.new("RGB", (64, 64)).save(black)
    rows, _ = audit(tmp_path, photos(crowd), [black])
    assert not rows[0]["copy"]


def test_hash_survives_brightness_and_size_but_not_another_face(crowd):
    first, other = (Image.open(files[0]).convert("L") for files in list(crowd.values())[:2])
    brighter = first.point(lambda value: min(255, value * 0.9 + 20)).resize((200, 200))
    hashes = [likeness._perceptual_hash(each) for each in (first, brighter, other)]
    same, different = (int(np.bitwise_count(hashes[0] ^ each)) for each in hashes[1:])
    assert same <= 4 < different


def test_same_images_give_the_same_bytes(audit, crowd, tmp_path):
    mixed = [files[n] for files in crowd.values() for n in (0, 9)]
    for name in ("first", "again"):
        audit(tmp_path / name, photos(crowd), mixed)
    for file in ("copies.parquet", "thresholds.json"):
        first, again = (tmp_path / name / file for name in ("first", "again"))
        assert first.read_bytes() == again.read_bytes()


@pytest.mark.shared
def test_photos_of_other_real_people_are_left_alone(audit, real_faces, tmp_path):
    """The 102 London faces against 200 photos of 40 identities; measured 0 false alarms."""
    real = {
        folder.name: [(path.stem, folder.name, path) for path in sorted(folder.glob("*.jpg"))[:5]]
        for folder in sorted((real_faces / "lfw40").iterdir())
    }
    others = sorted((real_faces / "london102").glob("*.jpg"))
    rows, thresholds = audit(tmp_path, real, others)
    assert (
        thresholds["calibration"]
        == "quantile 0.0025, or the normal prediction if lower: few photos"
    )
    assert sum(row["copy"] for row in rows) <= 1


def test_a_file_that_cannot_be_read_is_neither_copy_nor_passed(audit, crowd, tmp_path):
    broken = tmp_path / "broken.png"
    name = next(iter(crowd))
    broken.write_bytes(crowd[name][0].read_bytes()[:500])
    rows, _ = audit(tmp_path, photos(crowd), [crowd[name][9], broken, crowd[name][0]])
    assert [row["copy"] for row in rows] == [False, None, True]
    assert rows[1]["nearest_case_id"] is None
