"""Configurations and photos of studies that stand in for long ones."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image


def write_study(folder: Path, name: str, classes: int, **recognition: Any) -> Path:
    """Tiny photos of so many classes, others for each name, and a configuration; its file."""
    photos = folder / "photos"
    for number in range(classes):
        for index in range(2):
            place = photos / f"class-{number:03d}" / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([crc32(name.encode()), number, index]).integers(
                0, 255, (16, 16, 3), np.uint8
            )
            Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(place)
    config = {
        "name": name,
        "cases": {"source": str(photos), "test_fraction": 0.5},
        "dreambooth": {"steps": 1},
        "sampling": {"images_per_class": 10},
        "selection": {"scales": [10, 20]},
        "recognition": {"backbones": ["test_resnet"], "folds": 2, "pretrained": False}
        | recognition,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config))
    return path
