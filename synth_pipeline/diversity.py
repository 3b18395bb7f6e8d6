"""The order in which a class gives its images when each should be good and show something new.

Facility location (Nemhauser, Wolsey and Fisher 1978): a choice is worth how well it covers the
class, and greedy choosing comes within 37 % of the best one. Because it is greedy, larger choices
contain the smaller.
"""

import heapq
from collections.abc import Iterator

import numpy as np

#: Places in the class that are to be covered; bounds what an image costs, however many there are.
ANCHORS = 256
#: What an image's own quality counts beside the coverage that it adds, once all is covered.
_OWN = 1e-3
#: Perceptual hashes that differ in no more bits than these show the same picture.
DUPLICATE_BITS = 4


def greedy_order(
    embedded_ND: np.ndarray, quality_N: np.ndarray, hashes_N: np.ndarray
) -> Iterator[int]:
    """Images of one class in the order in which they are worth most, chosen as they are asked for.

    The worth of a choice S is the sum over anchors a of q_a · max over i in S of q_i · s_ia, with
    s_ia = exp(-d² / 2σ²) of their distance in the embedding and σ its median. An image whose hash
    is that of one already chosen is left out. A gain never grows as the choice does, so an old gain
    is an upper bound and few are computed again (Minoux 1978): about N log N steps in all.

    Args:
        embedded_ND: of the images, best first; ties in worth go to the earlier.
        quality_N: of each, 0 to 1.
        hashes_N: uint64 perceptual hash of each.

    Yields:
        Places in the arguments, no duplicates among them.
    """
    count = len(embedded_ND)
    anchors = np.unique(np.linspace(0, count - 1, min(count, ANCHORS)).round().astype(int))
    covers_NA = _similarity(embedded_ND, embedded_ND[anchors])
    covers_NA *= quality_N[:, None] * quality_N[anchors]
    covered_A = np.zeros(len(anchors))

    def gain(place: int) -> float:
        more_A = covers_NA[place] - covered_A
        return float(more_A[more_A > 0].sum()) + _OWN * float(quality_N[place])

    bounds = covers_NA.sum(1) + _OWN * quality_N
    waiting = [(-float(bound), place) for place, bound in enumerate(bounds)]
    heapq.heapify(waiting)
    hashes, chosen = np.empty(count, np.uint64), 0
    while waiting:
        _, place = waiting[0]
        bound = -gain(place)
        # Compared with the next as the heap does, so that ties go to the earlier image.
        if len(waiting) > 1 and (bound, place) > min(waiting[1:3]):
            heapq.heapreplace(waiting, (bound, place))
            continue
        heapq.heappop(waiting)
        if _seen(hashes_N[place], hashes[:chosen]):
            continue
        hashes[chosen] = hashes_N[place]
        chosen += 1
        np.maximum(covered_A, covers_NA[place], out=covered_A)
        yield place


def _seen(one: np.uint64, chosen: np.ndarray) -> bool:
    return bool((np.bitwise_count(chosen ^ one) <= DUPLICATE_BITS).any())


def _similarity(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """(N, M) of a Gaussian kernel as wide as the median distance."""
    squared = (a_ND**2).sum(1)[:, None] + (b_MD**2).sum(1) - 2 * a_ND @ b_MD.T
    np.maximum(squared, 0, out=squared)
    positive = squared[squared > 1e-9]
    width = float(np.median(positive)) if positive.size else 1.0
    return np.exp(-squared / (2 * width))
