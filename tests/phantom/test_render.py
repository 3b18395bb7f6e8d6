"""Pictures of phantoms: real MediaPipe finds them, and the same seed draws the same bytes."""

import numpy as np
import pytest

from synth_pipeline.phantom import mesh as m
from synth_pipeline.phantom.dataset import random_person
from synth_pipeline.phantom.phenotypes import FIELDS


def test_every_phantom_is_found(renderer, find_landmarks):
    missed = []
    for number in range(40):
        size_px = (128, 256)[number % 2]
        picture, caption = random_person(np.random.default_rng([17, number]), renderer, size_px)
        if find_landmarks(np.asarray(picture)) is None:
            missed.append((number, caption))
    assert not missed


@pytest.mark.parametrize("size_px", [64, 128, 257])
def test_same_seed_same_pixels(renderer, size_px):
    first, first_caption = random_person(np.random.default_rng(5), renderer, size_px)
    again, again_caption = random_person(np.random.default_rng(5), renderer, size_px)
    other, _ = random_person(np.random.default_rng(6), renderer, size_px)
    assert first.size == (size_px, size_px)
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert first_caption == again_caption
    assert first.tobytes() != other.tobytes()


def test_captions_name_what_is_seen(renderer):
    _, caption = random_person(np.random.default_rng([17, 1]), renderer, 64)
    assert caption.startswith("photo of a child, ")
    assert " skin" in caption
    assert " hair" in caption
    assert caption.endswith(" background")


def test_the_younger_the_larger_the_eyes_and_the_smaller_the_jaw(renderer):
    """The impression of age, with nothing else changed."""

    def proportions(age_years):
        shape = renderer.shape(np.zeros(len(FIELDS)), age_years)
        height = shape[m.FOREHEAD, 1] - shape[m.CHIN, 1]
        return (
            (shape[159, 1] - shape[145, 1]) / height,
            (shape[m.NOSE_BASE, 1] - shape[m.CHIN, 1]) / height,
        )

    opening, below_the_nose = zip(*(proportions(age) for age in (1, 6, 11, 16)), strict=True)
    assert list(opening) == sorted(opening, reverse=True)
    assert opening[0] > 1.2 * opening[-1]
    assert list(below_the_nose) == sorted(below_the_nose)
