"""Selection: who is eligible, in which order, and that larger scales contain the smaller."""

import itertools
import random
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth_pipeline import diversity, selection
from synth_pipeline.config import Strategy
from synth_pipeline.errors import InputError


@pytest.fixture
def select(tmp_path):
    """Select from cosines by class; `None` is an image without a face."""

    def run(
        cosines,
        *,
        strategy="top-per-class",
        scales=(1.0,),
        withheld=(),
        backwards=False,
        places=None,
        hashes=None,
        ranks=None,
    ):
        """`places`, `hashes`, `ranks`: of an image where it is told; else all are different."""
        images = [
            (name, index, cosine)
            for name, values in cosines.items()
            for index, cosine in enumerate(values)
        ]
        if backwards:
            images.reverse()
        numbers = {(name, index): number for number, (name, index, _) in enumerate(sorted(images))}
        ranking = [
            {
                "class_id": name,
                "index": index,
                "found": cosine is not None,
                "cosine": cosine,
                "true_class_rank": (ranks or {}).get((name, index), 1),
            }
            for name, index, cosine in images
        ]
        copies = [
            {
                "class_id": name,
                "index": index,
                "copy": (name, index) in withheld,
                "perceptual_hash": (hashes or {}).get(
                    (name, index), random.Random(numbers[name, index]).getrandbits(64)
                ),
            }
            for name, index, _ in images
        ]
        embeddings = [
            {
                "class_id": name,
                "index": index,
                "embedding": (places or {}).get((name, index), [float(numbers[name, index]), 0.0]),
            }
            for name, index, cosine in images
            if cosine is not None
        ]
        kinds = pa.schema(
            [
                ("class_id", pa.string()),
                ("index", pa.int32()),
                ("copy", pa.bool_()),
                ("perceptual_hash", pa.uint64()),
            ]
        )
        vectors = pa.schema(
            [
                ("class_id", pa.string()),
                ("index", pa.int32()),
                ("embedding", pa.list_(pa.float32(), 2)),
            ]
        )
        pq.write_table(pa.Table.from_pylist(ranking), tmp_path / "ranking.parquet")
        pq.write_table(pa.Table.from_pylist(copies, kinds), tmp_path / "copies.parquet")
        pq.write_table(pa.Table.from_pylist(embeddings, vectors), tmp_path / "embeddings.parquet")
        done = selection.run(
            strategy,
            scales=selection.resolve_scales(scales, len(images)),
            ranking_dir=tmp_path,
            copies_dir=tmp_path,
            sha256={(name, index): f"{name}{index}" for name, index, _ in images},
            out_dir=tmp_path,
        )
        return done, selection.load(tmp_path)

    return run


def _names(picks):
    return [(pick.class_id, pick.index) for pick in picks]


UNEVEN = {"a": [0.9, 0.8, 0.7, 0.6], "b": [0.5, 0.4, 0.3, 0.2]}


def test_top_per_class_is_balanced_and_top_overall_is_not(select):
    _, balanced = select(UNEVEN, scales=(4,))
    assert _names(balanced[4]) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    _, overall = select(UNEVEN, scales=(4,), strategy="top-overall")
    assert _names(overall[4]) == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]


def test_what_does_not_divide_goes_to_the_best(select):
    _, picks = select({"a": [0.1, 0.1], "b": [0.9, 0.2], "c": [0.5, 0.3]}, scales=(4,))
    assert _names(picks[4])[3] == ("c", 1)


def test_copies_and_faceless_images_are_never_selected(select):
    done, picks = select({"a": [0.9, 0.8, None], "b": [0.7, 0.6, 0.5]}, withheld={("a", 0)})
    assert _names(picks[6]) == [("a", 1), ("b", 0), ("b", 1), ("b", 2)]
    assert done == {"drawn": 6, "eligible": 4, "selected": 4, "missing": 2, "short_classes": 1}


def test_a_class_without_any_eligible_image_counts_as_short(select):
    done, _ = select({"a": [None, None], "b": [0.7, 0.6]}, scales=(2,))
    assert done == {"drawn": 4, "eligible": 2, "selected": 2, "missing": 0, "short_classes": 1}


def test_equal_cosines_are_ordered_by_name_whatever_the_order_of_input(select):
    same = {"b": [0.5, 0.5], "a": [0.5, 0.5]}
    _, forwards = select(same, strategy="top-overall")
    _, backwards = select(same, strategy="top-overall", backwards=True)
    assert _names(forwards[4]) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert forwards == backwards


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_order_of_input_never_changes_a_choice(select, strategy, rng):
    cosines = {name: rng.random(12).round(1).tolist() for name in "abc"}
    places = {
        (n, i): rng.normal(size=2).tolist() for n, values in cosines.items() for i in range(12)
    }
    _, forwards = select(cosines, strategy=strategy, places=places)
    _, backwards = select(cosines, strategy=strategy, places=places, backwards=True)
    assert forwards == backwards


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_larger_scales_contain_the_smaller(select, strategy, rng):
    cosines = {name: rng.random(20).tolist() for name in "abcdefg"}
    _, picks = select(cosines, strategy=strategy, scales=(0.1, 30, 0.5, 1.0))
    assert sorted(picks) == [14, 30, 70, 140]
    for smaller, larger in zip([14, 30, 70], [30, 70, 140], strict=True):
        assert picks[larger][:smaller] == picks[smaller]


TWO_GROUPS = {("a", 0): [0, 0], ("a", 1): [0.1, 0], ("a", 2): [0, 0.1], ("a", 3): [9, 9]}


def test_diverse_shows_the_other_group_before_more_of_the_same(select):
    cosines = {"a": [0.9, 0.89, 0.88, 0.7]}
    _, best = select(cosines, scales=(2,), places=TWO_GROUPS)
    assert _names(best[2]) == [("a", 0), ("a", 1)]
    _, diverse = select(cosines, scales=(2,), places=TWO_GROUPS, strategy="diverse")
    assert ("a", 3) in _names(diverse[2])
    assert _names(diverse[2]) != _names(best[2])


def test_diverse_prefers_an_image_that_ranks_first_for_its_class(select):
    cosines = {"a": [0.5, 0.5, 0.5]}
    places = {("a", 0): [0, 0], ("a", 1): [0, 0], ("a", 2): [0, 0]}
    ranks = {("a", 0): 3, ("a", 2): 2}
    _, picks = select(cosines, scales=(3,), places=places, ranks=ranks, strategy="diverse")
    assert _names(picks[3]) == [("a", 1), ("a", 2), ("a", 0)]


def test_diverse_leaves_near_duplicates_out_and_says_so(select):
    hashes = {("a", 0): 0b0, ("a", 1): 0b1111, ("a", 2): 0b11111}
    places = {image: [0, 0] for image in hashes}
    done, picks = select(
        {"a": [0.9, 0.8, 0.7]}, scales=(3,), hashes=hashes, places=places, strategy="diverse"
    )
    assert _names(picks[3]) == [("a", 0), ("a", 2)]
    assert done == {"drawn": 3, "eligible": 3, "selected": 2, "missing": 1, "short_classes": 0}


def test_lazy_greedy_is_greedy(rng):
    """Against choosing by the definition, each gain computed anew for everybody."""
    embedded, quality = rng.normal(size=(60, 3)), np.sort(rng.random(60))[::-1]
    hashes = rng.integers(0, 2**63, 60).astype(np.uint64)
    order = list(itertools.islice(diversity.greedy_order(embedded, quality, hashes), 25))
    covers = diversity._similarity(embedded, embedded) * quality[:, None] * quality
    covered, plain = np.zeros(60), []
    for _ in range(25):
        gains = np.maximum(covers - covered, 0).sum(1) + 1e-3 * quality
        gains[plain] = -1
        plain.append(int(gains.argmax()))
        covered = np.maximum(covered, covers[plain[-1]])
    assert order == plain


def test_a_pick_carries_its_hash_and_the_file_is_the_same_twice(select, tmp_path):
    _, picks = select(UNEVEN, scales=(2,))
    assert [pick.sha256 for pick in picks[2]] == ["a0", "b0"]
    first = (tmp_path / "selection.parquet").read_bytes()
    select(UNEVEN, scales=(2,))
    assert (tmp_path / "selection.parquet").read_bytes() == first


def test_nothing_eligible_is_said(select):
    with pytest.raises(InputError, match="No synthetic image has a face"):
        select({"a": [None], "b": [0.5]}, withheld={("b", 0)})


def test_more_than_generated_is_refused():
    with pytest.raises(InputError, match="asks for 11 images, but only 10"):
        selection.check_scales([3, 11], 10)


def test_a_scale_that_a_failed_class_leaves_empty_becomes_all_that_is_generated():
    assert selection.resolve_scales([4, 9], 8) == [4, 8]


def test_replacements_of_faceless_images_do_not_change_the_scales(select):
    # Of two classes of four images each; one image was drawn again, so there are nine.
    scales = selection.resolve_scales([0.5, 1.0], 2 * 4)
    done, picks = select({"a": [0.9, None, 0.7, 0.6, 0.5], "b": [0.4] * 4}, scales=scales)
    assert {scale: len(chosen) for scale, chosen in picks.items()} == {4: 4, 8: 8}
    assert done["drawn"] == 9


@given(
    st.lists(st.floats(0.001, 1) | st.integers(1, 50), min_size=1, max_size=6),
    st.integers(50, 20_000),
)
def test_scales_are_ascending_different_and_within_what_is_generated(scales, generated):
    numbers = selection.resolve_scales(scales, generated)
    assert numbers == sorted(set(numbers))
    assert numbers[0] >= 1
    assert numbers[-1] <= generated
    assert all(scale in numbers for scale in scales if isinstance(scale, int))
