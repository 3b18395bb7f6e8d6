"""Faces that are small, turned or upside down are found; all others stay as they were."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synth_pipeline import landmarks
from synth_pipeline.errors import ClassFailedError
from synth_pipeline.face_mesh import face_mesh

SIDE_PX = 900


@pytest.fixture(scope="module")
def mesh(landmark_model):
    with face_mesh(landmark_model) as opened:
        yield opened


@pytest.fixture(scope="module")
def portraits(phantom_files):
    return [Image.open(files[0]).convert("RGB") for files in phantom_files.values()]


def clouds(seed: int = 0) -> Image.Image:
    """Soft colours in which nobody sees a face."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(60, 200, (9, 9, 3), dtype=np.uint8))
    return small.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)


def framed(mesh, portrait: Image.Image, face_px: int, turn_deg: int):
    """A picture with a portrait in it whose face is so large, and where its points must be."""
    upright = mesh.find(np.asarray(portrait), search=False).points_px[:, :2]
    scale = face_px / np.ptp(upright, axis=0).max()
    size = (round(portrait.width * scale), round(portrait.height * scale))
    drawn, mask = (
        each.rotate(turn_deg, Image.Resampling.BICUBIC, expand=True)
        for each in (portrait.resize(size, Image.Resampling.LANCZOS), Image.new("L", size, 255))
    )
    angle = np.deg2rad(turn_deg)
    # PIL turns counter-clockwise, and y goes down.
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = (upright * scale - np.array(size) / 2) @ turned.T + np.array(drawn.size) / 2
    corner = np.array([SIDE_PX // 2 + 37, SIDE_PX // 2 - 61]) - np.array(drawn.size) // 2
    picture = clouds()
    picture.paste(drawn, (int(corner[0]), int(corner[1])), mask)
    return picture, points + corner


def misplaced_by(points_px: np.ndarray, wanted_px: np.ndarray) -> float:
    """Median distance of points as a share of the distance between the irises."""
    between_eyes = np.linalg.norm(wanted_px[468] - wanted_px[473])
    apart = np.linalg.norm(points_px[:, :2] - wanted_px, axis=1)
    return float(np.median(apart) / between_eyes)


@pytest.mark.parametrize("turn_deg", [135, 180, 225])
def test_an_upside_down_face_has_its_mesh_in_the_right_place(mesh, portraits, turn_deg):
    for portrait in portraits[:2]:
        picture, wanted = framed(mesh, portrait, 420, turn_deg)
        face = mesh.find(np.asarray(picture))
        assert face is not None
        assert misplaced_by(face.points_px, wanted) < 0.1
        assert face.by_search


@pytest.mark.parametrize(("face_px", "turn_deg"), [(60, 0), (110, 0), (70, 180), (110, 90)])
def test_a_small_face_is_found(mesh, portraits, face_px, turn_deg):
    picture, wanted = framed(mesh, portraits[0], face_px, turn_deg)
    assert mesh.find(np.asarray(picture), search=False) is None
    face = mesh.find(np.asarray(picture))
    assert face is not None
    assert misplaced_by(face.points_px, wanted) < 0.15
    assert face.faces == 1


def test_a_tight_crop_on_its_head_is_found(mesh, portraits):
    upright = mesh.find(np.asarray(portraits[1]), search=False).points_px[:, :2]
    box = (*upright.min(0).astype(int), *upright.max(0).astype(int))
    crop = portraits[1].crop(box)
    wanted = np.array(crop.size) - (upright - box[:2])
    face = mesh.find(np.asarray(crop.transpose(Image.Transpose.ROTATE_180)))
    assert face is not None
    assert misplaced_by(face.points_px, wanted) < 0.15


def test_what_is_seen_at_first_sight_stays_bit_by_bit(mesh, phantom_files):
    for path in (path for files in phantom_files.values() for path in files):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        first, searched = mesh.find(pixels, search=False), mesh.find(pixels)
        assert first is not None
        assert searched is not None
        assert not searched.by_search
        assert np.array_equal(first.points_px, searched.points_px)
        assert first.faces == searched.faces


def test_where_there_is_no_face_none_is_found(mesh):
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (600, 600, 3), dtype=np.uint8)
    for pixels in (noise, np.asarray(clouds(2)), np.zeros((700, 200, 3), np.uint8)):
        assert mesh.find(pixels) is None


def test_a_picture_of_one_row_is_looked_at(mesh):
    for shape in ((1, 500, 3), (500, 1, 3), (1, 1, 3)):
        assert mesh.find(np.full(shape, 90, np.uint8)) is None


def _kept(images, model: Path, out_dir: Path):
    out_dir.mkdir()
    done = landmarks.run(
        images, model=model, out_dir=out_dir, class_id="kapido", real_photos=True, workers=1
    )
    return done, pq.read_table(out_dir / "landmarks.parquet").to_pylist()


def test_a_class_says_what_its_photos_show(mesh, portraits, landmark_model, tmp_path, caplog):
    pair = Image.new("RGB", (2 * portraits[0].width, portraits[0].height), (90, 90, 90))
    pair.paste(portraits[0], (0, 0))
    pair.paste(portraits[1], (portraits[0].width, 0))
    pictures = {
        "one": portraits[2],
        "none": Image.effect_noise((300, 300), 90).convert("RGB"),
        "two": pair.resize((2 * pair.width, 2 * pair.height)),
        "turned": framed(mesh, portraits[0], 420, 180)[0],
    }
    images = []
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        images.append((name, tmp_path / f"{name}.png"))
    done, rows = _kept(images, landmark_model, tmp_path / "out")
    assert done == {"images": 4, "found": 3, "unreadable": 0, "several": 1, "by_search": 1}
    assert [row["faces"] for row in rows] == [1, 0, 2, 1]
    said = caplog.text
    assert "class kapido: no face was found in 1 of 4 training photos" in said
    assert "1 of 4 training photos shows several people (the largest face is taken)" in said
    assert "1 of 3 faces was found only by searching" in said


def test_the_hint_of_a_class_without_a_face_is_true(landmark_model, tmp_path):
    clouds().save(tmp_path / "clouds.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "clouds.png").read_bytes()[:3000])
    images = [(name, tmp_path / f"{name}.png") for name in ("clouds", "cut")]
    with pytest.raises(ClassFailedError) as caught:
        _kept(images, landmark_model, tmp_path / "out")
    said = str(caught.value)
    assert "any of its 2 training photos (1 of them is damaged)" in said
    assert "from the front" not in said
