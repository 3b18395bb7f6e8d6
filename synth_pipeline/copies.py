"""The copy audit: which synthetic images show a training photo again.

Two measures that a copy cannot easily escape together: a perceptual hash, which survives scaling,
recompression and colour, and the correlation of small grey pictures. Each is also taken of the
mirrored photo. The thresholds come from the real photos themselves: how near do photos of
*different* people come to each other?
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from synth_pipeline.config import CopiesConfig
from synth_pipeline.progress import Progress, silent

_HASH_PX = 32
_HASH_SIDE = 8
_SMALL_PX = 32
#: With fewer photos than this a quantile means nothing; the nearest pair is used instead.
_PHOTOS_FOR_A_QUANTILE = 100
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
    bits_RR, pixels_RR = _distances((hashes_R, small_R), (hashes_R, small_R), mirrored)
    subjects = [subject for _, subject, _ in photos]
    thresholds = _thresholds(config, subjects, bits_RR, pixels_RR)
    most_bits, most_pixels = thresholds["hash_distance"], thresholds["pixel_distance"]
    (out_dir / "thresholds.json").write_text(json.dumps(thresholds, indent=1) + "\n")
    rows = []
    copies = 0
    for done, name in enumerate(sorted(synthetic), start=1):
        described = _describe([path for _, path in synthetic[name]])
        bits_SR, pixels_SR = _distances(described, (hashes_R, small_R), mirrored)
        # In units of what is allowed, so that the photo named is the one that raises the alarm.
        alike = np.minimum(bits_SR / (most_bits + 1), pixels_SR / max(most_pixels, 1e-9))
        for place, (index, _) in enumerate(synthetic[name]):
            nearest = int(np.argmin(alike[place]))
            bits, pixels = int(bits_SR[place, nearest]), float(pixels_SR[place, nearest])
            copy = bits <= most_bits or pixels <= most_pixels
            copies += copy
            rows.append((name, index, photos[nearest][0], bits, pixels, copy))
        progress(done, len(synthetic), "classes")
    columns = [
        pa.array(c, kind) for c, kind in zip(zip(*rows, strict=True), _COPIES.types, strict=True)
    ]
    pq.write_table(pa.Table.from_arrays(columns, schema=_COPIES), out_dir / "copies.parquet")
    return {"images": len(rows), "copies": copies}


_COPIES = pa.schema(
    [
        ("class_id", pa.string()),
        ("index", pa.int32()),
        ("nearest_case_id", pa.string()),
        ("hash_distance", pa.int32()),
        ("pixel_distance", pa.float64()),
        ("copy", pa.bool_()),
    ]
)


def _thresholds(
    config: CopiesConfig, subjects: Sequence[str], bits_RR: np.ndarray, pixels_RR: np.ndarray
) -> dict[str, Any]:
    """How near two pictures may be: nearer than photos of different people almost ever are.

    The statistic is each photo's distance to its nearest photo of another subject, mirrored or
    not, as an image's distance is to its nearest photo; the threshold lies just below its
    `false_alarm_rate` quantile. The nearest of 40 photos is no such quantile: taken alone it gave
    6 % false alarms instead of 1 % (on phantoms). So where photos are few, the quantile of a
    normal distribution fitted to the same distances (pixel distances: to their logarithms) counts
    if it is lower; that gave 2 %.
    """
    other = np.array([[a != b for b in subjects] for a in subjects])
    has_other = other.any(1)
    photos = int(has_other.sum())
    if photos == 0:
        return {
            "hash_distance": _LARGEST_HASH_THRESHOLD,
            "pixel_distance": _LARGEST_PIXEL_THRESHOLD,
            "photos": 0,
            "calibration": "none: all training photos show one subject",
        }
    bits = np.where(other, bits_RR, 65)[has_other].min(1)
    pixels = np.where(other, pixels_RR, np.inf)[has_other].min(1)
    rate = config.false_alarm_rate / 2  # two measures, either of which may raise the alarm
    enough = photos >= _PHOTOS_FOR_A_QUANTILE
    # An observed distance and never one between two: 0.1 + 0.9 bits is not a number of bits.
    near_bits, near_pixels = (
        float(np.quantile(values, rate if enough else 0, method="lower"))
        for values in (bits, pixels)
    )
    most_bits, most_pixels = near_bits - 1, 0.95 * near_pixels
    if photos * rate < 1:
        most_bits = min(most_bits, _normal_quantile(bits, rate))
        logarithms = np.log(np.maximum(pixels, 1e-9))
        most_pixels = min(most_pixels, float(np.exp(_normal_quantile(logarithms, rate))))
    calibration = f"quantile {rate:g}" if enough else "nearest pair of different subjects"
    if photos * rate < 1:
        calibration += f", or the normal quantile {rate:g} if lower: few photos"
    return {
        "hash_distance": int(np.clip(np.floor(most_bits), 0, _LARGEST_HASH_THRESHOLD)),
        "pixel_distance": min(most_pixels, _LARGEST_PIXEL_THRESHOLD),
        "photos": photos,
        "calibration": calibration,
    }


def _normal_quantile(values: np.ndarray, rate: float) -> float:
    return float(values.mean() + NormalDist().inv_cdf(rate) * values.std(ddof=1))


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


def _distances(
    a: tuple[np.ndarray, np.ndarray],
    b: tuple[np.ndarray, np.ndarray],
    b_mirrored: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) differing bits and (N, M) pixel distances, to `b` or its mirror if that is nearer."""
    bits = np.minimum(_bits(a[0], b[0]), _bits(a[0], b_mirrored[0]))
    return bits, np.minimum(_apart(a[1], b[1]), _apart(a[1], b_mirrored[1]))


def _bits(a_NB: np.ndarray, b_MB: np.ndarray) -> np.ndarray:
    """(N, M) number of bits that differ."""
    a, b = a_NB.astype(np.float32), b_MB.astype(np.float32)
    return (a @ (1 - b).T + (1 - a) @ b.T).round().astype(np.int64)


def _apart(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """(N, M) one minus correlation: 0 the same picture, 1 unrelated."""
    return 1 - a_ND @ b_MD.T
