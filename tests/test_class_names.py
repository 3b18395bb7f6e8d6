"""Class ids: each name its own, whatever letters it is written in, and the same tomorrow."""

import unicodedata
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from synth_pipeline import figures
from synth_pipeline.class_names import class_ids, normalised, printable, shown
from synth_pipeline.export import card_environment

LATIN1_BYTES = b"M\xfcller".decode("utf-8", "surrogateescape")
NAMES = st.sampled_from(
    [
        *("Noonan", "noonan", "NOONAN", "noonan-2", "Noonan 2", "noonan_2", "class", "class-2"),
        *(
            "努南综合征",
            "唐氏综合征",
            "Синдром Нунан",
            "Синдром Дауна",
            "Möbius",
            "Mobius",
            "Mübius",
        ),
        *("1", "#1", "-rf", "100% sure?", "{class_name}", "x" * 200, "x" * 201, "!", "?", "🙂"),
        *("Type +", "Type -", LATIN1_BYTES, "class-x12345678", "noonan-x00000000"),
    ]
)


@given(st.sets(NAMES, min_size=1, max_size=30))
def test_every_name_has_an_id_of_its_own_that_fits_into_a_file_name(names):
    ids = class_ids(names)
    assert len(set(ids.values())) == len(names)
    assert all(len(each) <= 80 and each.strip("-") == each for each in ids.values())
    assert all(each.isascii() and each.replace("-", "").isalnum() for each in ids.values())


@given(st.sets(NAMES, min_size=1, max_size=20), NAMES)
@example({"noonan", "noonan-2"}, "Noonan")
@example({"Noonan", "noonan"}, "NOONAN")
@example({"努南综合征", "class 2"}, "丙")
@example({"#1", "1"}, "(1)")
def test_a_folder_that_is_added_changes_at_most_the_one_other_spelling(names, added):
    before, after = class_ids(names), class_ids({*names, added})
    moved = [name for name in names if before[name] != after[name]]
    assert len(moved) <= 1
    for name in moved:
        assert before[name] == class_ids([added]).get(added, "").split("-x")[0]


def test_an_id_that_another_name_has_is_not_given_again():
    """A folder called as the id of another one, the numbered ids of earlier versions too."""
    ids = class_ids(["Noonan", "noonan", "noonan-2"])
    assert ids["noonan"] == "noonan" and ids["noonan-2"] == "noonan-2"
    taken = ids["Noonan"]
    more = class_ids(["Noonan", "noonan", "noonan-2", taken])
    assert more["Noonan"] == taken != more[taken]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Noonan", "noonan"),
        ("noonan", "noonan"),
        ("Williams Beuren", "williams-beuren"),
        ("AB", "ab"),
        ("22q11.2 deletion", "22q11-2-deletion"),
        ("-rf", "rf"),
        (
            "Mandibulofacial dysostosis with microcephaly, Guion-Almeida type",
            "mandibulofacial-dysostosis-with-microcephaly-guion-almeida-type",
        ),
    ],
)
def test_ordinary_names_keep_their_ids(name, wanted):
    assert class_ids([name, "other"])[name] == wanted


def test_composed_and_decomposed_are_one():
    name = "Möbius"
    other = unicodedata.normalize("NFD", name)
    ids = class_ids([name, other, "Kabuki"])
    assert name != other and ids[name] == ids[other]
    assert normalised(other) == name == shown(other)


def test_names_are_shown_as_written_and_only_what_is_no_text_as_bytes():
    for name in ("努南综合征", "{class name}", "100% sure?", "#1", "-rf", 'A & B; $(x) "y"'):
        assert shown(name) == name
    assert shown("Williams_ Beuren ") == "Williams Beuren"
    assert printable(LATIN1_BYTES) == r"M\xfcller"
    assert printable("red\x1b[31m") == r"red\x1b[31m"
    printable(LATIN1_BYTES).encode()


def test_cards_keep_names_as_they_are():
    """A table has its columns, whatever a class is called."""
    cards = card_environment()
    assert cards.from_string("{{ 'a|b <i>' | markdown }}").render() == r"a\|b \<i\>"
    for template in ("dataset_card.md.j2", "classifier_card.md.j2"):
        source = cards.loader.get_source(cards, template)[0]
        assert "name | markdown" in source


def test_figures_have_room_for_long_ids():
    """The axes of the confusions vanished beside ids of seventy letters, with a warning."""
    ids = ["a", "b" * 61 + "-x01234567"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figures.confusions(np.array([[1, 1], [0, 2]]), ids)
    assert drawn == figures.confusions(np.array([[1, 1], [0, 2]]), ids)
