"""Which synthetic images are trained on, at several scales.

Not eligible are images without a face and images that the copy audit withholds. Scales are nested:
the larger contain the smaller.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline import diversity, ranking
from synth_pipeline.config import Strategy
from synth_pipeline.errors import InputError


@dataclass(frozen=True)
class Pick:
    """A selected synthetic image."""

    class_id: str
    index: int
    cosine: float
    rank: int
    sha256: str


def resolve_scales(scales: Sequence[int | float], generated: int) -> list[int]:
    """Numbers of images, ascending and different.

    A number of images beyond what is generated becomes what is generated, so that a study goes on
    when one of its classes failed; `check_scales` refuses it before anything is generated.

    Args:
        scales: integers are numbers of images, shares are of all that are to be generated.
        generated: classes × images per class; images that replace others do not count.
    """
    return sorted({min(_number(scale, generated), generated) for scale in scales})


def check_scales(scales: Sequence[int | float], generated: int) -> None:
    """Refuse scales that ask for more images than are to be generated.

    Args:
        scales: as in `resolve_scales`.
        generated: classes × images per class.

    Raises:
        InputError: naming the largest scale.
    """
    largest = max(_number(scale, generated) for scale in scales)
    if largest > generated:
        raise InputError(
            f"selection.scales asks for {largest} images, but only {generated} are generated; "
            "raise sampling.images_per_class or lower the scale."
        )


def _number(scale: int | float, generated: int) -> int:
    return scale if isinstance(scale, int) else max(1, round(scale * generated))


def run(
    strategy: Strategy,
    *,
    scales: Sequence[int],
    ranking_dir: Path,
    copies_dir: Path,
    sha256: Mapping[tuple[str, int], str],
    out_dir: Path,
) -> dict[str, float]:
    """Write `selection.parquet`.

    `top-per-class`, what the paper's text says: every class gives its best, one each in turn, so
    that classes stay balanced at every scale. `top-overall`, the published settings: the best of
    all classes together, which unbalances them as the scale shrinks. `diverse`: every class in turn
    gives the image that adds most to what it has shown (`diversity`), near-duplicates left out; an
    image counts by its cosine, divided by the rank of its true class.

    Args:
        strategy: how images are chosen.
        scales: numbers of images, ascending, as `resolve_scales` gives them. They are resolved
            once, before anything is generated: replacements of images without a face change how
            many there are, and must not change what a share means.
        ranking_dir: a `ranking` artifact.
        copies_dir: a `copies` artifact.
        sha256: of every synthetic image, by class and index.
        out_dir: an empty folder.

    Returns:
        How many images were drawn, how many are eligible, how many are selected, how many the
        largest scale lacks, and how many classes have fewer eligible images than an even share of
        it, so that others stand in for them.

    Raises:
        InputError: no image is eligible.
    """
    eligible = eligible_picks(ranking_dir, copies_dir, sha256)
    if not any(eligible.values()):
        raise InputError(
            "No synthetic image has a face and passed the copy audit; look at the images, then "
            "raise dreambooth.steps or choose another base model."
        )
    count = sum(len(picks) for picks in eligible.values())
    for picks in eligible.values():
        picks.sort(key=_best_first)
    if strategy == "top-overall":
        ordered = _all_together(eligible)
    elif strategy == "top-per-class":
        ordered = _in_turn(eligible, scales[-1])
    else:
        ordered = _in_turn(_diverse(eligible, ranking_dir, copies_dir), scales[-1])
    rows = [
        {
            "scale": scale,
            "position": position,
            "class_id": pick.class_id,
            "index": pick.index,
            "cosine": pick.cosine,
            "true_class_rank": pick.rank,
            "sha256": pick.sha256,
        }
        for scale in scales
        for position, pick in enumerate(ordered[:scale])
    ]
    pq.write_table(pa.Table.from_pylist(rows), out_dir / "selection.parquet")
    share = scales[-1] // len(eligible)
    return {
        "drawn": len(sha256),
        "eligible": count,
        "selected": min(scales[-1], len(ordered)),
        "missing": max(0, scales[-1] - len(ordered)),
        "short_classes": sum(len(picks) < share for picks in eligible.values()),
    }


def load(folder: Path) -> dict[int, list[Pick]]:
    """The picks of every scale of a `selection` artifact, in their order."""
    scales: dict[int, list[Pick]] = defaultdict(list)
    for row in pq.read_table(folder / "selection.parquet").to_pylist():
        scales[row["scale"]].append(
            Pick(
                row["class_id"], row["index"], row["cosine"], row["true_class_rank"], row["sha256"]
            )
        )
    return dict(scales)


def eligible_picks(
    ranking_dir: Path, copies_dir: Path, sha256: Mapping[tuple[str, int], str]
) -> dict[str, list[Pick]]:
    """By class, images that show a face and are no copy.

    Args:
        ranking_dir: a `ranking` artifact.
        copies_dir: a `copies` artifact.
        sha256: of every synthetic image, by class and index.
    """
    passed = {
        (row["class_id"], row["index"])
        for row in pq.read_table(
            copies_dir / "copies.parquet", columns=["class_id", "index", "copy"]
        ).to_pylist()
        if row["copy"] is False
    }
    eligible: dict[str, list[Pick]] = {name: [] for name, _ in sha256}
    columns = ["class_id", "index", "found", "cosine", "true_class_rank"]
    for row in pq.read_table(ranking_dir / "ranking.parquet", columns=columns).to_pylist():
        place = (row["class_id"], row["index"])
        if row["found"] and place in passed:
            pick = Pick(*place, row["cosine"], row["true_class_rank"], sha256[place])
            eligible[row["class_id"]].append(pick)
    return eligible


def _diverse(
    eligible: Mapping[str, list[Pick]], ranking_dir: Path, copies_dir: Path
) -> dict[str, Iterator[Pick]]:
    """By class, picks in the order in which they add most; near-duplicates are left out."""
    copies = pq.read_table(
        copies_dir / "copies.parquet", columns=["class_id", "index", "perceptual_hash"]
    )
    hashes = dict(
        zip(
            zip(copies["class_id"].to_pylist(), copies["index"].to_pylist(), strict=True),
            copies["perceptual_hash"].to_pylist(),
            strict=True,
        )
    )
    embedded = ranking.load_embeddings(ranking_dir)

    def chosen(name: str, picks: list[Pick]) -> Iterator[Pick]:
        indices, vectors = embedded[name]
        places = dict(zip(indices.tolist(), range(len(indices)), strict=True))
        order = diversity.greedy_order(
            vectors[[places[pick.index] for pick in picks]],
            np.array([(1 + pick.cosine) / (2 * pick.rank) for pick in picks]),
            np.array([hashes[name, pick.index] for pick in picks], np.uint64),
        )
        return (picks[place] for place in order)

    return {name: chosen(name, picks) for name, picks in eligible.items() if picks}


def _best_first(pick: Pick) -> tuple[float, str, int]:
    # Equal cosines are put in order by name, so that the order of input never matters.
    return (-pick.cosine, pick.class_id, pick.index)


def _all_together(eligible: Mapping[str, list[Pick]]) -> list[Pick]:
    return sorted((pick for picks in eligible.values() for pick in picks), key=_best_first)


def _in_turn(eligible: Mapping[str, Iterable[Pick]], most: int) -> list[Pick]:
    """Everybody's best, then everybody's second best; a class that has run out is passed over.

    Turns are taken until there are `most` picks.
    """
    ordered: list[Pick] = []
    waiting = [iter(picks) for picks in eligible.values()]
    while len(ordered) < most:
        turn = [pick for picks in waiting if (pick := next(picks, None)) is not None]
        if not turn:
            break
        ordered += sorted(turn, key=_best_first)
    return ordered
