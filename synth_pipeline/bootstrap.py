"""Intervals of a mean over folds, by drawing photos *and* folds again.

Five folds share one small test set, so the spread over folds alone is far too narrow. Drawing both
again (Efron and Tibshirani 1993, chapter 13) gives the shape of the interval, and is too wide: what
neither the photo nor the fold explains is counted about three times (Owen 2007, The pigeonhole
bootstrap, theorem 4). So the interval gets the width that the variances of photos and folds, taken
apart, add up to, and is widened for how little five folds say about theirs.
"""

from typing import NamedTuple

import numpy as np

_RESAMPLES = 2000
_TAIL = 0.025


class PerFold(NamedTuple):
    """Some figure of each of F folds: on all photos, and on those of each of B draws.

    Attributes:
        values: (F,).
        drawn: (F, B); the same photos are drawn for all folds.
    """

    values: np.ndarray
    drawn: np.ndarray


def drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """(B, count) how often each is drawn in each resample."""
    return rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES)


def accuracy(right_FN: np.ndarray, photos_BN: np.ndarray) -> PerFold:
    """The share that each fold gets right.

    Args:
        right_FN: whether each fold gets each photo right, bool or 0 to 1.
        photos_BN: as `drawn` gives them; the same for two runs compares them photo by photo.
    """
    right_FN = right_FN.astype(np.float64)
    return PerFold(right_FN.mean(1), right_FN @ photos_BN.T / right_FN.shape[1])


def interval(
    rng: np.random.Generator, of: PerFold, less: PerFold | None = None
) -> tuple[float, float]:
    """The 95 % interval of a mean over folds, which is 0 to 1, or of the difference of two.

    Args:
        rng: draws the folds; of two runs apart, because they are other models.
        of: the figure.
        less: what is subtracted from it.
    """
    figures = [of] if less is None else [of, less]
    sides = [1, -1][: len(figures)]
    centre = sum(side * each.values.mean() for side, each in zip(sides, figures, strict=True))
    both_B = sum(side * _redrawn(rng, each) for side, each in zip(sides, figures, strict=True))
    photos_B = sum(side * each.drawn.mean(0) for side, each in zip(sides, figures, strict=True))
    variance, doubt = float(np.var(photos_B)), 0.0
    for each in figures:
        folds = len(each.values)
        if folds > 1:
            spread = float(each.values.var(ddof=1)) / folds
            variance += max(spread - _unexplained(each), 0.0)
            doubt += spread**2 / (folds - 1)
    ends = np.quantile(both_B, (_TAIL, 1 - _TAIL))
    wide = float(np.var(both_B))
    share = (variance / wide) ** 0.5 if wide else 1.0
    if variance and doubt:
        share *= _for_few(variance**2 / doubt)
    low, high = np.clip(centre + (ends - centre) * share, 0 if less is None else -1, 1)
    return float(low), float(high)


def _redrawn(rng: np.random.Generator, of: PerFold) -> np.ndarray:
    folds = len(of.values)
    return np.einsum("bf,fb->b", drawn(rng, folds), of.drawn) / folds


def _unexplained(of: PerFold) -> float:
    """What the spread over folds owes to neither the folds nor the photos.

    With p for photos and e for what neither explains, a single fold varies over draws of photos by
    p + e, and the mean of F folds by p + e/F.
    """
    folds = len(of.values)
    return float(of.drawn.var(1).mean() - of.drawn.mean(0).var()) / (folds - 1)


def _for_few(freedom: float) -> float:
    """How much wider an interval is whose variance was estimated with so many degrees of freedom.

    Student's 97.5 % over the normal's, by its expansion in 1/freedom (Abramowitz and Stegun 1964,
    26.7.5); the degrees of freedom are Satterthwaite's (1946).
    """
    z = 1.96
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return 1 + sum(term / freedom**n for n, term in enumerate(terms, start=1)) / z
