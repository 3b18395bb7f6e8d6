"""RDFace's layout, filled with noise."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def plant_rdface(folder: Path, sizes: Iterable[int]) -> None:
    """Write a condition for each size, with so many photos; BMP, whose bytes no library decides."""
    rows, pixels = [], np.random.default_rng(0)
    for number, size in enumerate(sizes):
        for photo in range(size):
            name, short = f"{number}_{photo}.bmp", f"D{number:03d}"
            (folder / "rd_images" / short).mkdir(parents=True, exist_ok=True)
            noise = pixels.integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(noise).save(folder / "rd_images" / short / name)
            rows.append({"image_name": name, "disease_name": short, "disease_abbr": short})
    with (folder / "disease_images.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
