"""What differs between two phantoms besides the shape: skin, hair, light, pose, camera."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

#: Names go into captions, so that the base model learns what they mean. sRGB, 0 to 255.
SKINS: dict[str, Colour] = {
    "very light": (243, 211, 192),
    "light": (232, 193, 168),
    "tan": (212, 164, 132),
    "brown": (176, 125, 94),
    "dark brown": (132, 90, 66),
    "very dark": (96, 64, 48),
}
HAIRS: dict[str, Colour] = {
    "black": (34, 28, 27),
    "dark brown": (62, 42, 32),
    "brown": (104, 70, 46),
    "red": (150, 78, 42),
    "blond": (205, 170, 115),
}
IRISES: tuple[Colour, ...] = ((82, 54, 34), (58, 36, 26), (70, 96, 122), (84, 104, 76))
BACKGROUNDS: dict[str, Colour] = {
    "grey": (150, 152, 155),
    "blue": (108, 142, 190),
    "green": (120, 160, 120),
    "beige": (206, 190, 165),
    "pink": (205, 150, 160),
    "white": (228, 228, 226),
    "dark": (66, 68, 76),
}
HAIR_STYLES = ("short", "fringe", "long", "thin")
#: What a child is called up to an age in years.
AGES = (("toddler", 4.0), ("young", 8.0), ("older", 12.0), ("teenage", 16.0))


@dataclass(frozen=True)
class Appearance:
    """One photo's circumstances.

    Attributes:
        pose_deg: yaw (to the image's right), pitch (up), roll (clockwise), degrees.
        light: direction to the light, x right, y up, z to the camera; any length.
        ambient: share of light that comes from everywhere, 0 to 1.
        zoom: 1 is the usual size of the face in the picture.
        shift: displacement of the face as a share of the picture's size, (right, down).
        smile: 0 to 1; mouth_open: 0 to 1. Expressions, not phenotype.
        noise: standard deviation of the camera's noise, 8-bit steps.
        age_years: the impression of age, 1 to 16; it changes the face's proportions, brows and
            cheeks, as no phenotype does.
    """

    skin: str
    hair: str
    hair_style: str
    iris: Colour
    background: str
    clothes: Colour
    tint: float
    pose_deg: tuple[float, float, float]
    light: tuple[float, float, float]
    ambient: float
    zoom: float
    shift: tuple[float, float]
    gaze: tuple[float, float]
    smile: float
    mouth_open: float
    noise: float
    age_years: float


def draw(rng: np.random.Generator) -> Appearance:
    """Draw a photo's circumstances; the order of the draws is part of the phantoms' version."""

    def pick(names):
        return list(names)[int(rng.integers(len(names)))]

    skin = pick(SKINS)
    # Blond and red hair on dark skin would be a phenotype of its own.
    hairs = list(HAIRS)[:2] if skin in ("brown", "dark brown", "very dark") else list(HAIRS)
    return Appearance(
        skin=skin,
        hair=pick(hairs),
        hair_style=pick(HAIR_STYLES),
        iris=IRISES[int(rng.integers(2))] if len(hairs) == 2 else pick(IRISES),
        background=pick(BACKGROUNDS),
        clothes=tuple(float(v) for v in rng.uniform(40, 215, 3)),  # type: ignore[arg-type]
        tint=float(rng.uniform(-1, 1)),
        pose_deg=tuple(float(v) for v in rng.uniform(-1, 1, 3) * (16, 8, 6)),  # type: ignore[arg-type]
        light=(float(rng.uniform(-0.7, 0.7)), float(rng.uniform(0.1, 0.7)), 0.9),
        ambient=float(rng.uniform(0.45, 0.68)),
        zoom=float(rng.uniform(0.88, 1.1)),
        shift=tuple(float(v) for v in rng.uniform(-0.03, 0.03, 2)),  # type: ignore[arg-type]
        gaze=tuple(float(v) for v in rng.uniform(-0.12, 0.12, 2)),  # type: ignore[arg-type]
        smile=float(rng.uniform(0, 1)),
        mouth_open=float(rng.uniform(0, 1) ** 3),
        noise=float(rng.uniform(0, 3)),
        age_years=float(rng.uniform(1, AGES[-1][1])),
    )


def caption(appearance: Appearance, terms: list[str]) -> str:
    """Describe a photo in the words that the base model is trained on.

    Args:
        appearance: what is seen besides the shape.
        terms: names of Human Phenotype Ontology terms that the person shows.
    """
    age = next(word for word, until in AGES if appearance.age_years <= until)
    parts = [
        age,
        f"{appearance.skin} skin",
        f"{appearance.hair_style} {appearance.hair} hair",
        *terms,
    ]
    yaw = appearance.pose_deg[0]
    if abs(yaw) > 6:
        parts.append("facing right" if yaw > 0 else "facing left")
    parts.append(f"{appearance.background} background")
    return "photo of a child, " + ", ".join(parts)
