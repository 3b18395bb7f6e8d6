"""Folders of phantoms: conditions with training and held-out images, and their ground truth."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from synth_pipeline.atomic import new_folder, sweep_half_made
from synth_pipeline.disk_errors import explained
from synth_pipeline.errors import InputError
from synth_pipeline.folder_check import check_writable
from synth_pipeline.phantom import appearance, phenotypes
from synth_pipeline.phantom.mesh import load_mesh
from synth_pipeline.phantom.render import render
from synth_pipeline.progress import Progress, silent

#: Raised when the same numbers give other pictures; it is part of what decides a study's cases.
PHANTOMS_VERSION = 2
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_LARGEST_CLASSES, _LARGEST_IMAGES = 1000, 1000
_SIZES_PX = (64, 1024)


class PhantomRenderer:
    """The mesh and its fields, loaded once; makes a picture of any shape.

    Args:
        landmark_model: `face_landmarker.task`, which holds the canonical mesh.
    """

    def __init__(self, landmark_model: Path) -> None:
        mesh = load_mesh(landmark_model)
        self._triangles = mesh.triangles
        self._adult = mesh.vertices
        self._childlike = phenotypes.childlike(mesh.vertices)
        self._fields = phenotypes.displacement_fields(mesh.vertices)

    def shape(self, values_sd: np.ndarray, age_years: float) -> np.ndarray:
        """The (468, 3) vertices in centimetres of a person.

        Args:
            values_sd: (len(FIELDS),) amounts in SD.
            age_years: 1 to 16; the younger, the more of a child's proportions.
        """
        age = phenotypes.childlike_share(age_years) * self._childlike
        return self._adult + age + np.tensordot(values_sd, self._fields, 1)

    def picture(
        self, values_sd: np.ndarray, look: appearance.Appearance, size_px: int, seed: int
    ) -> Image.Image:
        """Draw a person of this shape in these circumstances."""
        shape = self.shape(values_sd, look.age_years)
        return render(shape, self._triangles, look, size_px, seed)


def class_names(classes: int, seed: int) -> list[str]:
    """Invented words, all different: neither a syndrome nor a person goes by them."""
    rng = np.random.default_rng([seed, 0])
    names: list[str] = []
    while len(names) < classes:
        syllables = [
            _CONSONANTS[int(rng.integers(len(_CONSONANTS)))] + _VOWELS[int(rng.integers(5))]
            for _ in range(3)
        ]
        word = "".join(syllables)
        if word not in names:
            names.append(word)
    return names


def draw_conditions(classes: int, seed: int) -> list[phenotypes.Condition]:
    """Conditions with invented names, each drawn from (seed, its number)."""
    names = class_names(classes, seed)
    return [phenotypes.condition(seed, number, name) for number, name in enumerate(names)]


def make_dataset(
    out_dir: Path,
    *,
    classes: int | Sequence[phenotypes.Condition],
    per_class: int | Sequence[int],
    test_per_class: int,
    size_px: int,
    seed: int,
    mesh_path: Path,
    progress: Progress = silent,
) -> None:
    """Render conditions into `images/<class>/<n>.png` with `cases.csv` and `truth.jsonl`.

    Every image is a person of its own: its own shape, expression of the terms and circumstances.

    Args:
        out_dir: a folder that is absent or empty.
        classes: number of conditions to draw, or the conditions themselves.
        per_class: training images of each, or of every one.
        test_per_class: held-out images of each.
        size_px: width and height.
        seed: same seed, same bytes.
        mesh_path: `face_landmarker.task`.
        progress: told after each image.

    Raises:
        DiskError: there is no room; nothing is left then.
        InputError: a number is impossible, the folder is not empty or cannot be written; nothing is
            written then.
    """
    _check(out_dir, classes, per_class, test_per_class, size_px)
    conditions = draw_conditions(classes, seed) if isinstance(classes, int) else classes
    counts = [per_class] * len(conditions) if isinstance(per_class, int) else per_class
    renderer = PhantomRenderer(mesh_path)
    with explained("The folder", out_dir), new_folder(out_dir) as beside:
        _write(beside, renderer, conditions, counts, test_per_class, size_px, seed, progress)
        # Nobody is shown on them: as readable as what the user makes.
        beside.chmod((beside / "images").stat().st_mode)


def _write(
    out_dir: Path,
    renderer: PhantomRenderer,
    conditions: Sequence[phenotypes.Condition],
    counts: Sequence[int],
    test_per_class: int,
    size_px: int,
    seed: int,
    progress: Progress,
) -> None:
    rows, truths = [], []
    total = sum(counts) + len(conditions) * test_per_class
    for class_index, (condition, count) in enumerate(zip(conditions, counts, strict=True)):
        name = condition.name
        folder = out_dir / "images" / name
        folder.mkdir(parents=True)
        for number in range(count + test_per_class):
            rng = np.random.default_rng([seed, 2, class_index, number])
            values_sd, terms = phenotypes.affected_sd(rng, condition)
            look = appearance.draw(rng)
            picture = renderer.picture(values_sd, look, size_px, int(rng.integers(2**31)))
            file = f"images/{name}/{number:03d}.png"
            save_png(picture, out_dir / file, {"generator": "synth-pipeline phantom"})
            split = "train" if number < count else "test"
            rows.append((file, name, f"{name}-{number:03d}", split))
            truths.append(_truth(file, condition, terms, values_sd, look))
            progress(len(rows), total, "")
    with (out_dir / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file", "class", "subject", "split"))
        writer.writerows(rows)
    (out_dir / "truth.jsonl").write_text("\n".join(truths) + "\n", encoding="utf-8")


def random_person(
    rng: np.random.Generator, renderer: PhantomRenderer, size_px: int
) -> tuple[Image.Image, str]:
    """A person with up to six terms drawn over the whole space, and a caption that names them."""
    values_sd, names = random_shape(rng)
    look = appearance.draw(rng)
    picture = renderer.picture(values_sd, look, size_px, int(rng.integers(2**31)))
    return picture, appearance.caption(look, names)


def random_shape(rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """The shape of a random person, (len(FIELDS),) in SD, and the names of its terms."""
    count = int(rng.integers(0, 7))
    fields = rng.choice(len(phenotypes.FIELDS), size=count, replace=False)
    shown: dict[str, float] = {}
    names = []
    for number in fields:
        choices = [t for t in phenotypes.TERMS if t.field == phenotypes.FIELDS[number]]
        term = choices[int(rng.integers(len(choices)))]
        # Wider than a condition's range, so that what a study asks for lies well inside.
        shown[term.hpo_id] = term.sign * float(rng.uniform(1.5, 4.6))
        names.append(term.name)
    values_sd, _ = phenotypes.individual_sd(rng, shown)
    return values_sd, names


def save_png(picture: Image.Image, path: Path, about: Mapping[str, str]) -> None:
    """Write a PNG that says in its metadata that it is synthetic."""
    info = PngImagePlugin.PngInfo()
    for name, value in {"synthetic": "true", **about}.items():
        info.add_text(name, value)
    picture.save(path, pnginfo=info)


def _check(
    out_dir: Path,
    classes: int | Sequence[phenotypes.Condition],
    per_class: int | Sequence[int],
    test_per_class: int,
    size_px: int,
) -> None:
    number = classes if isinstance(classes, int) else len(classes)
    if not 1 <= number <= _LARGEST_CLASSES:
        raise InputError(f"--classes {number}: choose between 1 and {_LARGEST_CLASSES}.")
    for count in [per_class] if isinstance(per_class, int) else per_class:
        if not 1 <= count <= _LARGEST_IMAGES:
            raise InputError(f"--per-class {count}: choose between 1 and {_LARGEST_IMAGES}.")
    if not 0 <= test_per_class <= _LARGEST_IMAGES:
        raise InputError(
            f"--test-per-class {test_per_class}: choose between 0 and {_LARGEST_IMAGES}."
        )
    if not _SIZES_PX[0] <= size_px <= _SIZES_PX[1]:
        raise InputError(f"--size-px {size_px}: choose between {_SIZES_PX[0]} and {_SIZES_PX[1]}.")
    check_writable(out_dir.absolute(), "The folder of the phantoms")
    sweep_half_made(out_dir)
    if out_dir.is_dir() and any(out_dir.iterdir()):
        raise InputError(f"{out_dir} is not empty: choose another folder, or empty it first.")


def _truth(
    file: str,
    condition: phenotypes.Condition,
    terms: list[str],
    values_sd: np.ndarray,
    look: appearance.Appearance,
) -> str:
    return json.dumps(
        {
            "file": file,
            "condition": condition.name,
            "condition_terms_sd": dict(condition.sizes_sd),
            "terms": terms,
            "shape_sd": dict(
                zip(phenotypes.FIELDS, (round(float(v), 4) for v in values_sd), strict=True)
            ),
            "appearance": asdict(look),
        }
    )
