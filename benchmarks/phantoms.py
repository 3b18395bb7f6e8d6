"""Phantoms to measure with, and their landmarks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synth_pipeline import landmarks
from synth_pipeline.models import face_landmarker_path
from synth_pipeline.phantom.dataset import make_dataset


def write_photos(
    folder: Path, *, classes: int, per_class: int, size_px: int, seed: int
) -> dict[str, list[Path]]:
    """Write training phantoms into a folder of `folder`; class to files, in order.

    Args:
        folder: gets `phantoms/`.
        classes: how many conditions.
        per_class: how many phantoms of each.
        size_px: width and height.
        seed: of conditions and people.
    """
    make_dataset(
        folder / "phantoms",
        classes=classes,
        per_class=per_class,
        test_per_class=0,
        size_px=size_px,
        seed=seed,
        mesh_path=face_landmarker_path(),
    )
    places = sorted((folder / "phantoms" / "images").iterdir())
    return {place.name: sorted(place.glob("*.png")) for place in places}


def find_landmarks(
    files: Sequence[Path], model: Path, out_dir: Path, class_id: str, *, real_photos: bool
) -> np.ndarray:
    """Write the `landmarks` artifact of a class's pictures; their points, (N, 478, 3) pixels."""
    landmarks.run(
        [(path.stem, path) for path in files],
        model=model,
        out_dir=out_dir,
        class_id=class_id,
        real_photos=real_photos,
    )
    return landmarks.points_of(out_dir, [path.stem for path in files])
