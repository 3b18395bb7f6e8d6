"""Whether a recogniser beats another on the same photos, and whether it knows how sure to be."""

from math import comb

import numpy as np

#: Bins of confidence, as in Guo et al. 2017.
_BINS = 15


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test (1947): both are as often right as the other.

    Args:
        only_first: photos that only the first got right.
        only_second: photos that only the second got right.
    """
    differing = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(comb(differing, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**differing))


def calibration_errors(
    probabilities_NK: np.ndarray, true_N: np.ndarray, weights_BN: np.ndarray
) -> np.ndarray:
    """(B,) expected calibration error of the first guess (Guo et al. 2017, section 2).

    The mean over photos of how far confidence and accuracy lie apart within 15 equal bins of
    confidence: 0 is calibrated, 1 is sure and wrong.

    Args:
        probabilities_NK: of photos and classes.
        true_N: index of the true class.
        weights_BN: how often each photo counts, for B resamples.
    """
    confidence_N = probabilities_NK.max(1)
    right_N = probabilities_NK.argmax(1) == true_N
    # A confidence on the border belongs to the lower bin, as in the reference.
    bins_N = np.clip(np.ceil(confidence_N * _BINS).astype(int) - 1, 0, _BINS - 1)
    apart_NJ = np.eye(_BINS)[bins_N] * (confidence_N - right_N)[:, None]
    return np.abs(weights_BN @ apart_NJ).sum(1) / weights_BN.sum(1)


def right_together(probabilities_FNK: np.ndarray, true_N: np.ndarray) -> np.ndarray:
    """(N,) whether folds that vote by their mean probability are right; a tie is wrong.

    Args:
        probabilities_FNK: of folds, photos and classes.
        true_N: index of the true class.
    """
    mean_NK = probabilities_FNK.mean(0)
    own_N = np.take_along_axis(mean_NK, true_N[:, None], axis=1)
    return (mean_NK >= own_N).sum(1) == 1


def against(first_N: np.ndarray, second_N: np.ndarray) -> tuple[int, int, float]:
    """How many photos only the first, and only the second gets right, and McNemar's p-value.

    Args:
        first_N: bool, whether the first gets each photo right.
        second_N: the same of the second.
    """
    only_first = int((first_N & ~second_N).sum())
    only_second = int((second_N & ~first_N).sum())
    return only_first, only_second, mcnemar_exact(only_first, only_second)
