"""Samples of a training: every picture as often as the others, times without gaps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth_pipeline import spread


@given(
    pictures=st.integers(1, 12),
    rounds=st.integers(1, 5),
    begun=st.integers(0, 50),
    seed=st.integers(0, 2**62),
)
def test_every_picture_has_its_turn_once_a_round(pictures, rounds, begun, seed):
    first = begun * pictures
    turns = [spread.turn(pictures, n, seed) for n in range(first, first + rounds * pictures)]
    assert np.array_equal(np.bincount(turns, minlength=pictures), np.full(pictures, rounds))


def test_rounds_differ_in_their_order():
    orders = {tuple(spread.turn(6, 6 * r + n, 1) for n in range(6)) for r in range(40)}
    assert len(orders) > 30


@pytest.mark.parametrize("samples", [4, 20, 100, 1000])
def test_times_leave_no_gap_wherever_one_begins(samples):
    """The largest gap between neighbours stays below three times the even one.

    Of independent draws it is about log(n) times.
    """
    for begun in range(0, 10_000, 997):
        times = sorted(spread.share(begun + n, seed=begun) for n in range(samples))
        gaps = np.diff([*times, times[0] + 1])
        assert gaps.max() <= 3 / samples
        assert 0 <= times[0] <= times[-1] < 1


def test_every_time_is_as_likely_as_the_others():
    """Over many concepts, the n-th sample's time is uniform."""
    shares = np.array([spread.share(7, seed) for seed in range(5000)])
    counts = np.bincount((10 * shares).astype(int), minlength=10)
    # Five standard deviations of a binomial count.
    assert np.abs(counts - 500).max() < 5 * np.sqrt(5000 * 0.1 * 0.9)
