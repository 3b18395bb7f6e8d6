"""Morphs: faces whose shape lies between those of photos, and what a fine-tuning makes of them."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from synth_pipeline import concept_data, dreambooth, morphs
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import DreamBoothConfig
from synth_pipeline.errors import ClassFailedError
from synth_pipeline.face_mesh import face_mesh
from synth_pipeline.loaded_base import load_base

SIDE_PX = 128


@pytest.fixture(scope="module")
def mesh(landmark_model):
    with face_mesh(landmark_model) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def photos(phantom_files, mesh):
    """Four phantoms of one class: files, (4, 3, S, S) pictures and (4, 478, 3) landmarks."""
    files = next(iter(phantom_files.values()))[:4]
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in files]
    points = np.stack([mesh.find(each).points_px for each in pixels])
    pictures = np.stack([each.transpose(2, 0, 1) for each in pixels]) / np.float32(127.5) - 1
    return files, pictures, points


def _apart(some_PD, others_PD):
    """Mean distance of points in pixels."""
    return float(np.linalg.norm(some_PD[:, :2] - others_PD[:, :2], axis=1).mean())


def _seen(mesh, picture_CSS):
    assert picture_CSS.shape == (3, SIDE_PX, SIDE_PX)
    assert picture_CSS.dtype == np.float32
    assert -1 <= picture_CSS.min() <= picture_CSS.max() <= 1
    shown = ((picture_CSS.transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
    return mesh.find(np.ascontiguousarray(shown)).points_px


def test_a_morphs_shape_is_that_of_three(photos, mesh):
    """As MediaPipe finds it: nearer to their mean than the photo's own shape is, by half."""
    _, pictures, points = photos
    trios = [(own, *two) for own in range(4) for two in ((1, 2), (1, 3), (2, 3))]
    made = list(morphs.morphs(pictures, points))
    assert len(made) == len(trios) == 12
    for (own, *steps), picture in zip(trios, made, strict=True):
        others = points[[(own + step) % 4 for step in steps]]
        wanted = 0.4 * points[own] + 0.3 * others.sum(axis=0)
        assert _apart(_seen(mesh, picture), wanted) < 0.5 * _apart(points[own], wanted)


def test_a_morph_of_two_lies_halfway(photos, mesh):
    _, pictures, points = photos
    made = list(morphs.morphs(pictures[:2], points[:2]))
    assert len(made) == 2
    for own, picture in enumerate(made):
        wanted = points[:2].mean(axis=0)
        assert _apart(_seen(mesh, picture), wanted) < 0.5 * _apart(points[own], wanted)


def test_of_the_same_landmarks_it_is_the_photo(photos):
    _, pictures, points = photos
    made = list(morphs.morphs(pictures[[0] * 4], points[[0] * 4]))
    for morph in made:
        np.testing.assert_allclose(morph, pictures[0], atol=2e-3)


@pytest.mark.parametrize(
    ("number", "made"), [(1, 0), (2, 2), (3, 3), (5, 30), (8, 168), (12, 240), (300, 300)]
)
def test_how_many_there_are(number, made):
    """All trios of a few photos; of many, each photo gives and lends."""
    shares = np.array([each for own in range(number) for each in morphs._shares(number, own)])
    assert len(shares) == made
    if made:
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        assert len(np.unique(shares, axis=0)) == (made if number > 2 else 1)
        assert (shares.sum(axis=0) > 0).all()


def test_photos_of_any_shape_are_morphed_where_their_face_lies(photos, tmp_path):
    """Cut off at the sides and enlarged, which padding and resizing undo."""
    files, _, points = photos
    base = load_base(resolve_base("embedded"))
    wide = []
    for path in files[:2]:
        image = Image.open(path).convert("RGB").crop((8, 0, 120, SIDE_PX)).resize((224, 256))
        wide.append(tmp_path / path.name)
        image.save(wide[-1])
    moved = (points[:2, :, :2] - [8, 0]) * 2
    found = concept_data.read_latents(base, wide, SIDE_PX, "x", moved)
    squares = []
    for path in wide:
        padded = Image.new("RGB", (SIDE_PX, SIDE_PX), (128, 128, 128))
        small = Image.open(path).resize((112, SIDE_PX), Image.Resampling.LANCZOS)
        padded.paste(small, (8, 0))
        squares.append(tmp_path / f"square-{path.name}")
        padded.save(squares[-1])
    expected = concept_data.read_latents(base, squares, SIDE_PX, "x", points[:2])
    assert found.mean.shape[0] == 2
    torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=1e-3)


def test_photos_without_a_face_are_left_out(photos):
    files, _, points = photos
    base = load_base(resolve_base("embedded"))
    blind = points.copy()
    blind[1] = np.nan
    found = concept_data.read_latents(base, files, SIDE_PX, "x", blind)
    kept = [0, 2, 3]
    expected = concept_data.read_latents(base, [files[n] for n in kept], SIDE_PX, "x", points[kept])
    assert torch.equal(found.mean, expected.mean)


def test_a_single_face_is_learned_as_it_is(photos, caplog):
    files, _, points = photos
    base = load_base(resolve_base("embedded"))
    blind = points[:2].copy()
    blind[1] = np.nan
    with caplog.at_level(logging.WARNING, "synth_pipeline"):
        found = concept_data.read_latents(base, files[:2], SIDE_PX, "dofanu", blind)
    assert torch.equal(found.mean, concept_data.read_latents(base, files[:2], SIDE_PX, "x").mean)
    assert "class dofanu: fewer than two photos show a face" in caplog.text


def test_a_fine_tuning_reads_morphs_when_it_is_told_to(photos, tiny_base, tmp_path):
    """With landmarks or without, photos are learned unless the configuration says morphs."""
    files, _, points = photos
    last = {}
    for name, on, known, learned in (
        ("photos", False, None, "4 photos"),
        ("landmarks known", False, points, "4 photos"),
        ("morphs", True, points, "12 morphs"),
        ("other morphs", True, points[::-1].copy(), "12 morphs"),
    ):
        out_dir = tmp_path / name
        out_dir.mkdir()
        dreambooth.run(
            DreamBoothConfig(steps=3, learning_rate=1e-3, rank=2, morphs=on),
            class_id="x",
            class_name="x",
            images=files,
            base=resolve_base(str(tiny_base)),
            seed=7,
            out_dir=out_dir,
            points_px=known,
        )
        assert json.loads((out_dir / "card.json").read_text())["learned_from"] == learned
        last[name] = (out_dir / "pytorch_lora_weights.safetensors").read_bytes()
    assert last["photos"] == last["landmarks known"]
    assert len(set(last.values())) == 3


def test_morphs_without_landmarks_are_refused(photos, tiny_base, tmp_path):
    """Instead of learning the photos themselves."""
    files, _, _ = photos
    with pytest.raises(ClassFailedError, match="no landmarks of its photos"):
        dreambooth.run(
            DreamBoothConfig(steps=1, morphs=True),
            class_id="x",
            class_name="x",
            images=files,
            base=resolve_base(str(tiny_base)),
            seed=7,
            out_dir=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []
