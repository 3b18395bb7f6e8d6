"""Sets of phantoms as numbers, among them two to cite: `phantom-20` and `phantom-103`.

The benchmarks' definition is fixed. A change to the renderer or the phenotypes that moves their
ground truth makes other benchmarks, under other names, because old figures no longer compare.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synth_pipeline.config import StudyConfig
from synth_pipeline.phantom.dataset import make_dataset
from synth_pipeline.progress import Progress, silent

#: How many conditions have 1, 2, ... 7 images. RDFace (arXiv:2604.03454) says: 456 images of 103
#: conditions, 1 to 7 of each; and a quarter of the conditions with more than one were 113 images,
#: so that between 4 and 7 conditions have a single one. The rest is our choice.
_RDFACE_LIKE = (6, 9, 15, 19, 25, 17, 12)


@dataclass(frozen=True)
class PhantomSet:
    """All that decides a set of phantoms.

    Attributes:
        per_class: training images of each condition.
        test_per_class: held-out images of each condition.
    """

    per_class: tuple[int, ...]
    test_per_class: int
    size_px: int
    seed: int

    def make(self, out_dir: Path, *, mesh_path: Path, progress: Progress = silent) -> None:
        """Render the set, as `make_dataset` does.

        Raises:
            InputError: the folder is not empty; nothing is written then.
        """
        make_dataset(
            out_dir,
            classes=len(self.per_class),
            per_class=self.per_class,
            test_per_class=self.test_per_class,
            size_px=self.size_px,
            seed=self.seed,
            mesh_path=mesh_path,
            progress=progress,
        )


def _rdface_like_sizes(seed: int) -> tuple[int, ...]:
    sizes = np.repeat(np.arange(1, 8), _RDFACE_LIKE)
    return tuple(int(size) for size in np.random.default_rng([seed, 6]).permutation(sizes))


BENCHMARKS = {
    "phantom-20": PhantomSet((5,) * 20, test_per_class=25, size_px=256, seed=20),
    "phantom-103": PhantomSet(_rdface_like_sizes(103), test_per_class=10, size_px=256, seed=103),
}

#: SHA-256 of each benchmark's `truth.jsonl`, by which two people know that they speak of the same.
#: (The pixels may differ in the last bit between versions of Pillow and numpy.)
TRUTH_SHA256 = {
    "phantom-20": "f795868d20d52fcdaaeb98b070568584c7361e72185f3cedef350654fb63d9c2",
    "phantom-103": "fb4df0a24a00e0f910646dc525c32f294f13dd2054d4afa4101ce715950c66fb",
}


def phantoms_of(config: StudyConfig) -> PhantomSet:
    """The phantoms that a study asks for: a benchmark's, or some of its own."""
    wanted = config.cases.phantom
    if wanted.benchmark:
        return BENCHMARKS[wanted.benchmark]
    return PhantomSet(
        (wanted.per_class,) * wanted.classes, wanted.test_per_class, wanted.size_px, config.seed
    )
