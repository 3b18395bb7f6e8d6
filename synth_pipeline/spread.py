"""Which picture the n-th sample of a training has, and where among all times: spread evenly.

Independent draws leave gaps and repeat themselves; a short training of few pictures is noisier by
that. Both functions depend on nothing but their arguments, so a training goes on from any step.
"""

import random
from functools import lru_cache

from synth_pipeline.seeds import derived_seed

#: The fractional part of the golden ratio: its multiples, modulo 1, are spread evenly at every
#: length (Kronecker's sequence).
_GOLDEN = (5**0.5 - 1) / 2


def turn(pictures: int, n: int, seed: int) -> int:
    """The picture of the n-th sample: each once in a round, in an order of the round's own.

    Args:
        pictures: how many there are.
        n: of the sample, from 0.
        seed: of the order.
    """
    return _round(pictures, n // pictures, seed)[n % pictures]


def share(n: int, seed: int) -> float:
    """The n-th sample's place among all times, 0 to 1 without 1: any few in a row cover all of it.

    As in Kingma et al. 2021 (Variational Diffusion Models, appendix I.1), who spread the times of
    a batch; here the batches follow one another too, because they are small.

    Args:
        n: of the sample, from 0.
        seed: where the sequence begins.
    """
    begin = random.Random(derived_seed(seed, "time")).random()
    return (begin + n * _GOLDEN) % 1


@lru_cache(maxsize=256)
def _round(pictures: int, number: int, seed: int) -> tuple[int, ...]:
    order = list(range(pictures))
    random.Random(derived_seed(seed, "round", number)).shuffle(order)
    return tuple(order)
