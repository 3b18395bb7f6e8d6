"""Measures: each named one follows the phenotype it is named for, and nothing else moves it."""

import numpy as np
import pytest

from synth_pipeline import measures
from synth_pipeline.phantom import mesh, phenotypes

#: What one standard deviation of a field does, seen in a measure of ours.
FOLLOWS = {
    "eye_spacing": ("inner canthal distance", 1),
    "fissure_length": ("palpebral fissure length", 1),
    "fissure_opening": ("palpebral fissure height", 1),
    "canthal_tilt": ("palpebral fissure slant", 1),
    "brow_arch": ("eyebrow arch", 1),
    "nose_width": ("nasal width", 1),
    "nose_length": ("nose length", 1),
    "nasal_bridge": ("nasal bridge projection", 1),
    "philtrum": ("philtrum length", 1),
    "mouth_width": ("mouth width", 1),
    "lip_fullness": ("lower vermilion height", 1),
    "mouth_corners": ("mouth corners' height", 1),
    "jaw_width": ("jaw width", 1),
    "chin_projection": ("chin projection", 1),
    "chin_height": ("chin height", 1),
    "face_width": ("face width", 1),
    "forehead_width": ("forehead width", 1),
    "forehead_height": ("forehead height", 1),
    "midface": ("midface projection", 1),
    "cheeks": ("cheek projection", 1),
}


@pytest.fixture(scope="module")
def vertices(landmark_model) -> np.ndarray:
    return mesh.load_mesh(landmark_model).vertices


def as_seen(vertices: np.ndarray) -> np.ndarray:
    """(1, 478, 3) pixels of a mesh in centimetres seen from the front, irises in the eyes."""
    irises = np.zeros((10, 3))
    for first, ring in zip((0, 5), mesh.EYES, strict=True):
        irises[first : first + 5] = vertices[list(ring)].mean(0)
    points = np.concatenate([vertices, irises])
    return (points * (10, -10, -10) + (128, 128, 0))[None]


def changed(vertices: np.ndarray, shift: np.ndarray) -> dict[str, float]:
    off = measures.measure(as_seen(vertices + shift)) - measures.measure(as_seen(vertices))
    return dict(zip(measures.NAMES, off[0].tolist(), strict=True))


def test_every_field_has_its_measure():
    assert set(FOLLOWS) == set(phenotypes.FIELDS)


@pytest.mark.parametrize("field", phenotypes.FIELDS)
def test_a_measure_follows_its_phenotype(vertices, field):
    name, sign = FOLLOWS[field]
    shift = phenotypes.displacement_fields(vertices)[phenotypes.FIELDS.index(field)]
    more, less = changed(vertices, 2 * shift)[name], changed(vertices, -2 * shift)[name]
    assert sign * more > 0.01
    assert sign * less < -0.01


def test_position_scale_and_turning_the_head_change_nothing(vertices):
    points_px = as_seen(vertices)
    angle = np.deg2rad(25)
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    moved = points_px @ turn * 2.3 + (12, -40, 7)
    np.testing.assert_allclose(measures.measure(moved), measures.measure(points_px), atol=1e-9)


def test_one_crooked_mouth_corner_is_asymmetry(vertices):
    shift = np.zeros_like(vertices)
    shift[61, 1] = -0.5
    off = changed(vertices, shift)
    assert off["asymmetry of the mouth corners' height"] > 0.01
    moved = off["asymmetry of the mouth corners' height"]
    assert abs(off["asymmetry of the eyes' height"]) < 0.1 * moved


@pytest.mark.parametrize(("axis", "place", "sign"), [(1, 0, 1), (0, 1, -1), (2, 2, 1)])
def test_pose_is_the_turn_of_the_head(vertices, axis, place, sign):
    """Turned by 20 degrees about one axis, only its own angle moves, by 20 degrees."""
    a, b = [i for i in range(3) if i != axis]
    turn = np.eye(3)
    turn[[a, a, b, b], [a, b, a, b]] = np.array([1, -1, 1, 1]) * (
        np.cos(np.deg2rad(20)),
        np.sin(np.deg2rad(20)),
        np.sin(np.deg2rad(20)),
        np.cos(np.deg2rad(20)),
    )
    before = measures.pose(as_seen(vertices))[0]
    off = measures.pose(as_seen(vertices) @ turn.T)[0] - before
    wanted = np.zeros(3)
    wanted[place] = sign * 20
    np.testing.assert_allclose(off, wanted, atol=1.0)


def test_of_no_face_there_are_no_measures():
    assert measures.measure(np.zeros((0, 478, 3))).shape == (0, len(measures.NAMES))
