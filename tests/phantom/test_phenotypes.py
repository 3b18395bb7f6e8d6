"""Terms, conditions and individuals: what their numbers do to a face."""

import re

import numpy as np
import pytest

from synth_pipeline.errors import InputError
from synth_pipeline.phantom import mesh as m
from synth_pipeline.phantom import phenotypes as p

OUTER_CORNERS, INNER_CORNERS, MOUTH_CORNERS = (33, 263), (133, 362), (61, 291)


def _span(shape, ends, axis):
    return abs(shape[ends[0], axis] - shape[ends[1], axis])


#: What a dysmorphologist would measure for a term, as (name, measurement in cm or cm of height).
MEASURES = {
    "HP:0000316": lambda s: _span(s, INNER_CORNERS, 0),
    "HP:0000637": lambda s: s[133, 0] - s[33, 0],
    "HP:0000582": lambda s: s[33, 1] - s[133, 1],
    "HP:0000343": lambda s: s[m.NOSE_BASE, 1] - s[0, 1],
    "HP:0000154": lambda s: _span(s, MOUTH_CORNERS, 0),
    "HP:0000445": lambda s: _span(s, (129, 358), 0),
    "HP:0003189": lambda s: s[m.NOSE_BRIDGE, 1] - s[m.NOSE_BASE, 1],
    "HP:0000426": lambda s: s[m.NOSE_BRIDGE, 2] - s[133, 2],
    "HP:0012471": lambda s: s[0, 1] - s[17, 1],
    "HP:0000303": lambda s: s[m.CHIN, 2],
    "HP:0012802": lambda s: _span(s, (172, 397), 0),
    "HP:0000283": lambda s: _span(s, (234, 454), 0),
}


@pytest.fixture(scope="module")
def vertices(landmark_model):
    return m.load_mesh(landmark_model).vertices


@pytest.mark.parametrize("hpo_id", MEASURES)
def test_a_term_moves_what_its_name_says(vertices, hpo_id):
    """The opposite term of the same field moves the same measure the other way."""
    term, measure = p.term(hpo_id), MEASURES[hpo_id]
    field = p.displacement_fields(vertices)[p.FIELDS.index(term.field)]
    small, usual, large = (measure(vertices + sd * term.sign * field) for sd in (-3, 0, 3))
    assert small < usual - 0.05
    assert usual + 0.05 < large


def test_terms_are_well_formed():
    assert all(re.fullmatch(r"HP:\d{7}", t.hpo_id) for t in p.TERMS)
    assert len(p.BY_ID) == len(p.TERMS), "an id is used twice"
    assert len({t.name for t in p.TERMS}) == len(p.TERMS)
    assert len({(t.field, t.sign) for t in p.TERMS}) == len(p.TERMS), "two terms look the same"


def test_fields_are_symmetric(vertices):
    """Asymmetry is itself a phenotype, so no other term may bring it along."""
    mirror = ((vertices[:, None] - vertices * (-1, 1, 1)) ** 2).sum(2).argmin(0)
    for name, field in zip(p.FIELDS, p.displacement_fields(vertices), strict=True):
        assert np.allclose(field[mirror], field * (-1, 1, 1), atol=0.02), name


def test_an_unknown_term_is_the_users_mistake():
    with pytest.raises(InputError, match="HP:9999999"):
        p.term("HP:9999999")


def test_conditions_are_distinct_and_repeatable():
    made = [p.condition(3, index, f"c{index}") for index in range(103)]
    assert made[7] == p.condition(3, 7, "c7")
    assert len({tuple(c.sizes_sd.items()) for c in made}) == len(made)
    for condition in made:
        fields = [p.term(hpo_id).field for hpo_id in condition.sizes_sd]
        assert len(set(fields)) == len(fields), "two terms pull one field apart"
        assert all(0 < share <= 1 for share in condition.penetrance.values())


def test_an_individuals_numbers_are_standard_normal_plus_its_terms():
    rng = np.random.default_rng(0)
    plain = np.stack([p.individual_sd(rng, {})[0] for _ in range(400)])
    assert abs(plain.mean()) < 0.05
    assert 0.9 < plain.std() < 1.05
    shown = {"HP:0000316": 3.0}
    moved = np.stack([p.individual_sd(rng, shown)[0] for _ in range(400)])
    column = p.FIELDS.index("eye_spacing")
    assert 2.6 < moved[:, column].mean() < 3.2
    assert abs(np.delete(moved, column, axis=1).mean()) < 0.05
