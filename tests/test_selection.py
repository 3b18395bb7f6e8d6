"""Selection: who is eligible, in which order, and that larger scales contain the smaller."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth_pipeline import selection
from synth_pipeline.config import SelectionConfig
from synth_pipeline.errors import InputError


@pytest.fixture
def select(tmp_path):
    """Select from cosines by class; `None` is an image without a face."""

    def run(cosines, *, strategy="top-per-class", scales=(1.0,), withheld=(), backwards=False):
        images = [
            (name, index, cosine)
            for name, values in cosines.items()
            for index, cosine in enumerate(values)
        ]
        if backwards:
            images.reverse()
        ranking = [
            {"class_id": name, "index": index, "found": cosine is not None, "cosine": cosine}
            for name, index, cosine in images
        ]
        copies = [
            {"class_id": name, "index": index, "copy": (name, index) in withheld}
            for name, index, _ in images
        ]
        pq.write_table(pa.Table.from_pylist(ranking), tmp_path / "ranking.parquet")
        pq.write_table(pa.Table.from_pylist(copies), tmp_path / "copies.parquet")
        done = selection.run(
            SelectionConfig(strategy=strategy, scales=scales),
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
    assert done == {"eligible": 4, "missing": 2, "short_classes": 1}


def test_a_class_without_any_eligible_image_counts_as_short(select):
    done, _ = select({"a": [None, None], "b": [0.7, 0.6]}, scales=(2,))
    assert done == {"eligible": 2, "missing": 0, "short_classes": 1}


def test_equal_cosines_are_ordered_by_name_whatever_the_order_of_input(select):
    same = {"b": [0.5, 0.5], "a": [0.5, 0.5]}
    _, forwards = select(same, strategy="top-overall")
    _, backwards = select(same, strategy="top-overall", backwards=True)
    assert _names(forwards[4]) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert forwards == backwards


@pytest.mark.parametrize("strategy", ["top-per-class", "top-overall"])
def test_larger_scales_contain_the_smaller(select, strategy, rng):
    cosines = {name: rng.random(20).tolist() for name in "abcdefg"}
    _, picks = select(cosines, strategy=strategy, scales=(0.1, 30, 0.5, 1.0))
    assert sorted(picks) == [14, 30, 70, 140]
    for smaller, larger in zip([14, 30, 70], [30, 70, 140], strict=True):
        assert picks[larger][:smaller] == picks[smaller]


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
        selection.resolve_scales([11], 10)


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
