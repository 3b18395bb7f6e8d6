"""Seeds by name: stable across runs, machines, batch sizes and order."""

import hashlib


def derived_seed(seed: int, *names: str | int) -> int:
    """A seed in 0..2**63-1 that depends on the study's seed and on names, and on nothing else."""
    text = "\0".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
