"""Reference figures: nearest prototypes, on sets whose answer is known."""

import pytest

from synth_pipeline.phantom.reference import reference_figures
from synth_pipeline.phantom.sets import PhantomSet


@pytest.fixture(scope="module")
def figures(tmp_path_factory, landmark_model):
    place = tmp_path_factory.mktemp("reference")
    PhantomSet((5,) * 6, 10, 128, 9).make(place / "set", mesh_path=landmark_model)
    (place / "scratch").mkdir()
    return reference_figures(
        place / "set", landmark_model=landmark_model, scratch=place / "scratch"
    )


def test_what_is_known_is_no_worse_than_what_is_seen(figures):
    assert figures["true_shape"] >= figures["mesh"] > 2 * figures["chance"]
    assert figures["mesh"] > figures["five_point"]


def test_pixels_tell_next_to_nothing(figures):
    """Light, skin and pose, which no condition changes, rule the pixels."""
    assert figures["pixels"] < figures["mesh"] - 0.2


def test_the_number_of_images_is_told(figures):
    assert figures["held_out"] == 60
    assert figures["chance"] == pytest.approx(1 / 6)
