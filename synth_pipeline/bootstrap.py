"""Accuracies with photos and folds drawn again (Efron and Tibshirani 1993, chapter 13)."""

import numpy as np

_RESAMPLES = 2000


def drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """(B, count) how often each is drawn in each resample."""
    return rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES)


def resampled(rng: np.random.Generator, right_FN: np.ndarray, photos_BN: np.ndarray) -> np.ndarray:
    """(B,) Top-1 over drawn folds and photos.

    Args:
        rng: draws the folds.
        right_FN: whether each fold gets each photo right, bool or 0 to 1.
        photos_BN: as `drawn` gives them; the same for two runs compares them photo by photo.
    """
    folds_BF = drawn(rng, len(right_FN))
    return np.einsum("bf,fn,bn->b", folds_BF, right_FN, photos_BN, optimize=True) / right_FN.size
