"""The copy audit: which synthetic images show a training photo again.

Two measures that a copy cannot easily escape together: a perceptual hash, which survives scaling,
recompression and colour, and the correlation of small grey pictures. Each is also taken of the
mirrored photo. The thresholds come from the real photos themselves: how near do photos of
*different* people come to each other?
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from synth_pipeline.config import CopiesConfig
from synth_pipeline.progress import Progress, silent

_HASH_PX = 32
_HASH_SIDE = 8
_SMALL_PX = 32
#: With fewer different pairs than this a quantile means nothing; the nearest pair is used instead.
_PAIRS_FOR_A_QUANTILE = 100
#: The published rule of thumb for 64-bit perceptual hashes: up to 10 bits is the same picture.
_LARGEST_HASH_THRESHOLD = 10
_LARGEST_PIXEL_THRESHOLD = 0.10


def run(
    config: CopiesConfig,
    *,
    real: Mapping[str, Sequence[tuple[str, str, Path]]],
    synthetic: Mapping[str, Sequence[tuple[int, Path]]],
    out_dir: Path,
    progress: Progress = silent,
) -> dict[str, float]:
    """Write `copies.parquet` and `thresholds.json`.

    Args:
        config: how many false alarms are allowed.
        real: class id to (case id, subject id, file) of the training photos.
        synthetic: class id to (index, file) of the synthetic images.
        out_dir: an empty folder.
        progress: told after each class.

    Returns:
        How many images were audited, and how many are copies.
    """
    photos = [photo for name in sorted(real) for photo in real[name]]
    hashes_R, small_R = _describe([path for _, _, path in photos])
    mirrored = _describe([path for _, _, path in photos], mirror=True)
    thresholds = _thresholds(config, [subject for _, subject, _ in photos], hashes_R, small_R)
    (out_dir / "thresholds.json").write_text(json.dumps(thresholds, indent=1) + "\n")
    rows = []
    copies = 0
    for done, name in enumerate(sorted(synthetic), start=1):
        hashes_S, small_S = _describe([path for _, path in synthetic[name]])
        bits = np.minimum(_bits(hashes_S, hashes_R), _bits(hashes_S, mirrored[0]))
        pixels = np.minimum(_apart(small_S, small_R), _apart(small_S, mirrored[1]))
        for place, (index, _) in enumerate(synthetic[name]):
            nearest = int(np.argmin(pixels[place]))
            copy = bool(
                bits[place].min() <= thresholds["hash_distance"]
                or pixels[place].min() <= thresholds["pixel_distance"]
            )
            copies += copy
            rows.append(
                {
                    "class_id": name,
                    "index": index,
                    "nearest_case_id": photos[nearest][0],
                    "hash_distance": int(bits[place].min()),
                    "pixel_distance": float(pixels[place].min()),
                    "copy": copy,
                }
            )
        progress(done, len(synthetic), "classes")
    pq.write_table(pa.Table.from_pylist(rows), out_dir / "copies.parquet")
    return {"images": len(rows), "copies": copies}


def _thresholds(
    config: CopiesConfig, subjects: Sequence[str], hashes_R: np.ndarray, small_R: np.ndarray
) -> dict[str, float | int | str]:
    """How near two pictures may be: nearer than photos of different people almost ever are.

    The statistic is each photo's distance to its nearest photo of another subject, as an image's
    distance is to its nearest photo; the threshold lies just below its `false_alarm_rate` quantile.
    """
    other = np.array([[a != b for b in subjects] for a in subjects])
    has_other = other.any(1)
    pairs = int(has_other.sum())
    if pairs == 0:
        return {
            "hash_distance": _LARGEST_HASH_THRESHOLD,
            "pixel_distance": _LARGEST_PIXEL_THRESHOLD,
            "photos": 0,
            "calibration": "none: all training photos show one subject",
        }
    bits = np.where(other, _bits(hashes_R, hashes_R), 65)[has_other].min(1)
    pixels = np.where(other, _apart(small_R, small_R), np.inf)[has_other].min(1)
    rate = config.false_alarm_rate / 2  # two measures, either of which may raise the alarm
    enough = pairs >= _PAIRS_FOR_A_QUANTILE
    near_bits = float(np.quantile(bits, rate) if enough else bits.min())
    near_pixels = float(np.quantile(pixels, rate) if enough else pixels.min())
    return {
        "hash_distance": int(min(max(near_bits - 1, 0), _LARGEST_HASH_THRESHOLD)),
        "pixel_distance": min(0.95 * near_pixels, _LARGEST_PIXEL_THRESHOLD),
        "photos": pairs,
        "calibration": f"quantile {rate:g}" if enough else "nearest pair of different subjects",
    }


def _describe(paths: Sequence[Path], mirror: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(N, 64) bool hashes and (N, 1024) float32 standardised small pictures."""
    hashes, small = [], []
    for path in paths:
        with Image.open(path) as opened:
            grey = opened.convert("L")
        if mirror:
            grey = grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        hashes.append(_perceptual_hash(grey))
        pixels = np.asarray(grey.resize((_SMALL_PX, _SMALL_PX), Image.Resampling.BOX), np.float32)
        centred = pixels.ravel() - pixels.mean()
        small.append(centred / max(float(np.linalg.norm(centred)), 1e-6))
    return np.stack(hashes), np.stack(small)


def _perceptual_hash(grey: Image.Image) -> np.ndarray:
    """(64,) bool: signs of low frequencies against their median (Zauner 2010, section 3.2.1)."""
    pixels = np.asarray(grey.resize((_HASH_PX, _HASH_PX), Image.Resampling.LANCZOS), np.float64)
    low = _COSINES @ pixels @ _COSINES.T
    return (low > np.median(low.ravel()[1:])).ravel()


def _cosines() -> np.ndarray:
    """The first eight rows of a 32-point discrete cosine transform; (8, 32)."""
    k, n = np.arange(_HASH_SIDE)[:, None], np.arange(_HASH_PX)
    return np.cos(np.pi * (n + 0.5) * k / _HASH_PX)


_COSINES = _cosines()


def _bits(a_NB: np.ndarray, b_MB: np.ndarray) -> np.ndarray:
    """(N, M) number of bits that differ."""
    a, b = a_NB.astype(np.float32), b_MB.astype(np.float32)
    return (a @ (1 - b).T + (1 - a) @ b.T).round().astype(np.int64)


def _apart(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """(N, M) one minus correlation: 0 the same picture, 1 unrelated."""
    return 1 - a_ND @ b_MD.T
