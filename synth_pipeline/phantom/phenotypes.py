"""Phenotypes by Human Phenotype Ontology term, as displacement fields of the face mesh.

A shape is the canonical mesh plus a sum of fields, each times a number of inter-individual standard
deviations (SD). An individual draws every number from a standard normal distribution; a condition
adds its terms, whose sizes are in the same unit, so that "hypertelorism of 3 SD" means what a
dysmorphologist means by it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from synth_pipeline.errors import InputError
from synth_pipeline.phantom import mesh as m

#: Number of SD between the population's mean and a marked expression of a term.
MARKED_SD = (2.6, 4.2)


@dataclass(frozen=True)
class Term:
    """A term of the Human Phenotype Ontology.

    Attributes:
        field: the displacement field that it moves along.
        sign: towards which side.
    """

    hpo_id: str
    name: str
    field: str
    sign: int


TERMS = (
    Term("HP:0000316", "hypertelorism", "eye_spacing", 1),
    Term("HP:0000601", "hypotelorism", "eye_spacing", -1),
    Term("HP:0000637", "long palpebral fissures", "fissure_length", 1),
    Term("HP:0012745", "short palpebral fissures", "fissure_length", -1),
    Term("HP:0045025", "narrow palpebral fissures", "fissure_opening", -1),
    Term("HP:0000582", "upslanted palpebral fissures", "canthal_tilt", 1),
    Term("HP:0000494", "downslanted palpebral fissures", "canthal_tilt", -1),
    Term("HP:0002553", "highly arched eyebrows", "brow_arch", 1),
    Term("HP:0000445", "wide nose", "nose_width", 1),
    Term("HP:0000460", "narrow nose", "nose_width", -1),
    Term("HP:0003189", "long nose", "nose_length", 1),
    Term("HP:0003196", "short nose", "nose_length", -1),
    Term("HP:0000426", "prominent nasal bridge", "nasal_bridge", 1),
    Term("HP:0005280", "depressed nasal bridge", "nasal_bridge", -1),
    Term("HP:0000343", "long philtrum", "philtrum", 1),
    Term("HP:0000322", "short philtrum", "philtrum", -1),
    Term("HP:0000154", "wide mouth", "mouth_width", 1),
    Term("HP:0000160", "narrow mouth", "mouth_width", -1),
    Term("HP:0012471", "thick vermilion", "lip_fullness", 1),
    Term("HP:0000233", "thin vermilion", "lip_fullness", -1),
    Term("HP:0002714", "downturned mouth corners", "mouth_corners", -1),
    Term("HP:0012802", "broad jaw", "jaw_width", 1),
    Term("HP:0012801", "narrow jaw", "jaw_width", -1),
    Term("HP:0000303", "mandibular prognathia", "chin_projection", 1),
    Term("HP:0000347", "micrognathia", "chin_projection", -1),
    Term("HP:0400000", "tall chin", "chin_height", 1),
    Term("HP:0000331", "short chin", "chin_height", -1),
    Term("HP:0000283", "broad face", "face_width", 1),
    Term("HP:0000275", "narrow face", "face_width", -1),
    Term("HP:0000337", "broad forehead", "forehead_width", 1),
    Term("HP:0000341", "narrow forehead", "forehead_width", -1),
    Term("HP:0000348", "high forehead", "forehead_height", 1),
    Term("HP:0011800", "midface retrusion", "midface", -1),
    Term("HP:0000293", "full cheeks", "cheeks", 1),
)
BY_ID = {term.hpo_id: term for term in TERMS}
FIELDS = tuple(dict.fromkeys(term.field for term in TERMS))


def term(hpo_id: str) -> Term:
    """The term with this id.

    Raises:
        InputError: no such term is known here.
    """
    if hpo_id not in BY_ID:
        raise InputError(
            f"{hpo_id} is not one of the {len(TERMS)} terms that phantoms can show; "
            "`synth-pipeline phantom terms` lists them."
        )
    return BY_ID[hpo_id]


@dataclass(frozen=True)
class Condition:
    """A made-up condition.

    Attributes:
        name: one invented word, used as class name and in prompts.
        sizes_sd: HPO id to the signed size of its deformation in SD.
        penetrance: HPO id to the share of individuals that show it.
    """

    name: str
    sizes_sd: Mapping[str, float]
    penetrance: Mapping[str, float]


def condition(seed: int, index: int, name: str) -> Condition:
    """Draw a condition: four to six terms, one to a field, each with size and penetrance."""
    rng = np.random.default_rng([seed, 1, index])
    fields = rng.choice(len(FIELDS), size=int(rng.integers(4, 7)), replace=False)
    sizes, penetrance = {}, {}
    for number in sorted(fields):
        choices = [t for t in TERMS if t.field == FIELDS[number]]
        chosen = choices[int(rng.integers(len(choices)))]
        sizes[chosen.hpo_id] = round(chosen.sign * float(rng.uniform(*MARKED_SD)), 3)
        penetrance[chosen.hpo_id] = round(float(rng.uniform(0.75, 1.0)), 3)
    return Condition(name, sizes, penetrance)


def affected_sd(rng: np.random.Generator, condition: Condition) -> tuple[np.ndarray, list[str]]:
    """The shape of one person with a condition: its terms as they penetrate, and the person's own.

    Args:
        rng: drawn from in a fixed order.
        condition: whose terms.

    Returns:
        (len(FIELDS),) float64 in SD, and the HPO ids shown.
    """
    shown = {
        hpo_id: size
        for hpo_id, size in condition.sizes_sd.items()
        if rng.random() < condition.penetrance[hpo_id]
    }
    return individual_sd(rng, shown)


def individual_sd(
    rng: np.random.Generator, terms_sd: Mapping[str, float]
) -> tuple[np.ndarray, list[str]]:
    """One person's shape: own variation, and the terms with an expression that varies.

    Args:
        rng: drawn from in a fixed order.
        terms_sd: HPO id to signed size in SD of the terms that this person shows.

    Returns:
        (len(FIELDS),) float64 in SD, and the HPO ids shown.
    """
    values = rng.standard_normal(len(FIELDS)).clip(-2.5, 2.5)
    for hpo_id, size in terms_sd.items():
        values[FIELDS.index(term(hpo_id).field)] += size * rng.uniform(0.8, 1.15)
    return values.clip(-5, 5), list(terms_sd)


def _bump(vertices: np.ndarray, centre: np.ndarray, widths: Sequence[float]) -> np.ndarray:
    """A Gaussian weight of each vertex around a centre; (468, 1)."""
    scaled = (vertices - centre) / np.asarray(widths)
    return np.exp(-0.5 * (scaled**2).sum(1, keepdims=True))


def _step(values: np.ndarray, edge: float, softness: float) -> np.ndarray:
    """A smooth step from 0 below the edge to 1 above it."""
    return 1 / (1 + np.exp(-(values - edge) / softness))


def displacement_fields(vertices: np.ndarray) -> np.ndarray:
    """The displacement of every vertex for one SD of every field.

    Args:
        vertices: (468, 3) float64 centimetres, the canonical mesh.

    Returns:
        (len(FIELDS), 468, 3) float64 centimetres. The sizes keep MediaPipe finding the face in
        every phantom at twice the marked expression of four terms.
    """
    field = {name: np.zeros_like(vertices) for name in FIELDS}
    x, y = vertices[:, 0], vertices[:, 1]
    side = np.sign(x)
    mouth = vertices[list(m.LIPS_OUTER)].mean(0)
    tip, base, bridge = vertices[m.NOSE_TIP], vertices[m.NOSE_BASE], vertices[m.NOSE_BRIDGE]
    for ring, brow in zip(m.EYES, m.BROWS, strict=True):
        eye = vertices[list(ring)].mean(0)
        outwards = np.sign(eye[0])
        region = _bump(vertices, eye, (1.7, 1.4, 3.0))[:, 0]
        lids = _bump(vertices, eye, (1.4, 0.75, 3.0))[:, 0]
        from_eye = vertices - eye
        field["eye_spacing"][:, 0] += region * outwards * 0.22
        field["fissure_length"][:, 0] += lids * from_eye[:, 0] * 0.09
        field["fissure_opening"][:, 1] += lids * from_eye[:, 1] * 0.17
        field["canthal_tilt"][:, 1] += region * from_eye[:, 0] * outwards * 0.085
        # The arch rises in the middle of the brow and leaves its ends where they are.
        middle = vertices[list(brow)].mean(0) + (0, 0.2, 0)
        field["brow_arch"][:, 1] += _bump(vertices, middle, (1.1, 0.7, 3.0))[:, 0] * 0.20
        cheek = vertices[m.CHEEKS[0 if outwards < 0 else 1]] + (outwards * 0.8, -1.6, 0)
        full = _bump(vertices, cheek, (2.2, 2.2, 4.0))[:, 0]
        field["cheeks"][:, 0] += full * outwards * 0.24
        field["cheeks"][:, 2] += full * 0.12
        corner = vertices[61 if outwards < 0 else 291]
        field["mouth_corners"][:, 1] += _bump(vertices, corner, (1.0, 0.8, 3.0))[:, 0] * 0.16
    wings = _bump(vertices, np.array((0, tip[1] - 0.4, tip[2] - 1)), (1.6, 1.2, 3.0))[:, 0]
    field["nose_width"][:, 0] = wings * x * 0.16
    field["nose_length"][:, 1] = -_bump(vertices, base, (1.6, 1.4, 3.5))[:, 0] * 0.20
    over_bridge = _bump(vertices, bridge, (1.0, 1.3, 3.0))[:, 0]
    field["nasal_bridge"][:, 2] = over_bridge * 0.26
    field["nasal_bridge"][:, 0] = -_bump(vertices, bridge, (1.3, 1.1, 3.0))[:, 0] * x * 0.10
    around_mouth = _bump(vertices, mouth, (3.0, 1.2, 3.0))[:, 0]
    field["philtrum"][:, 1] = -around_mouth * 0.19
    field["mouth_width"][:, 0] = _bump(vertices, mouth, (2.6, 1.0, 3.0))[:, 0] * x * 0.10
    field["lip_fullness"][:, 1] = (
        _bump(vertices, mouth, (2.2, 0.9, 3.0))[:, 0] * (y - mouth[1]) * 0.16
    )
    below_mouth = 1 - _step(y, mouth[1] - 1.5, 0.5)
    field["jaw_width"][:, 0] = (1 - _step(y, mouth[1] + 0.5, 0.9)) * x * 0.062
    field["chin_height"][:, 1] = -below_mouth * 0.28
    chin = _bump(vertices, vertices[m.CHIN], (3.2, 1.9, 4.0))[:, 0]
    # In front view a small chin shows as one that is also short and tapers.
    field["chin_projection"][:, 2] = chin * 0.36
    field["chin_projection"][:, 1] = -chin * 0.14
    field["chin_projection"][:, 0] = chin * x * 0.05
    field["face_width"][:, 0] = x * 0.030
    above_eyes = _step(y, bridge[1] + 2.0, 0.9)
    field["forehead_width"][:, 0] = above_eyes * x * 0.040
    field["forehead_height"][:, 1] = above_eyes * 0.32
    middle_face = _bump(vertices, np.array((0, tip[1], tip[2])), (4.5, 2.1, 5.0))[:, 0]
    field["midface"][:, 2] = middle_face * 0.28
    # A flat middle of the face also widens it a little between nose and cheek.
    field["midface"][:, 0] = -middle_face * side * np.minimum(np.abs(x), 2.0) * 0.03
    return np.stack([field[name] for name in FIELDS])


def childlike_share(age_years: float) -> float:
    """How much of `childlike` a face of this age has: 1.4 at one year, 0.5 at sixteen."""
    return 1.4 - 0.06 * (age_years - 1)


def childlike(vertices: np.ndarray) -> np.ndarray:
    """What makes the canonical mesh, which is an adult's, a child's of about eight years.

    Args:
        vertices: (468, 3) float64 centimetres.

    Returns:
        (468, 3) float64 centimetres to add: larger eyes, smaller nose and jaw, higher forehead.
    """
    fields = displacement_fields(vertices)
    amounts = {
        "fissure_length": 1.2,
        "fissure_opening": 2.2,
        "nose_length": -1.6,
        "nose_width": -0.6,
        "nasal_bridge": -0.8,
        "chin_height": -1.8,
        "jaw_width": -1.2,
        "cheeks": 1.6,
        "forehead_height": 1.0,
        "mouth_width": -0.8,
        "philtrum": -0.6,
    }
    weights = np.array([amounts.get(name, 0.0) for name in FIELDS])
    return np.tensordot(weights, fields, 1)
