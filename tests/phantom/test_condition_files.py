"""Conditions that a user writes down, and what is wrong with some of them."""

import json

import pytest

from flows.cli import WRONG_INPUT, main
from synth_pipeline.errors import InputError
from synth_pipeline.phantom.condition_files import read_conditions

GOOD = """
robin-like:
  HP:0000347: 3.5
  HP:0000316: {size_sd: 2.8, penetrance: 0.5}
wide-eyed:
  HP:0000601: 3
"""


def test_sizes_take_the_sign_of_their_term(tmp_path):
    (tmp_path / "conditions.yaml").write_text(GOOD)
    robin, wide = read_conditions(tmp_path / "conditions.yaml")
    assert (robin.name, wide.name) == ("robin-like", "wide-eyed")
    assert robin.sizes_sd == {"HP:0000347": -3.5, "HP:0000316": 2.8}
    assert robin.penetrance == {"HP:0000347": 1.0, "HP:0000316": 0.5}
    assert wide.sizes_sd == {"HP:0000601": -3.0}


def test_they_are_rendered(tmp_path, landmark_model):
    (tmp_path / "conditions.yaml").write_text(GOOD)
    folder = tmp_path / "made"
    arguments = ["phantom", "make", str(folder), "--conditions", str(tmp_path / "conditions.yaml")]
    sizes = ["--per-class", "2", "--test-per-class", "1", "--size-px", "64"]
    assert main([*arguments, *sizes]) == 0
    assert len(list((folder / "images" / "robin-like").glob("*.png"))) == 3
    truth = json.loads((folder / "truth.jsonl").read_text().splitlines()[-1])
    assert (truth["condition"], truth["terms"]) == ("wide-eyed", ["HP:0000601"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {HP:9999999: 3}", "HP:9999999 is not one of the"),
        ("a: {HP:0000347: 30}", "size_sd 30 is impossible"),
        ("a: {HP:0000347: large}", "size_sd 'large' is impossible"),
        ("a: {HP:0000347: true}", "size_sd True is impossible"),
        ("a: {HP:0000347: {penetrance: 1}}", "size_sd None is impossible"),
        ("a: {HP:0000347: {size_sd: 3, penetrance: 2}}", "penetrance 2 is impossible"),
        ("a: {HP:0000347: {size: 3}}", "give size_sd and penetrance only"),
        ("a: {HP:0000347: 3, HP:0000303: 3}", "one undoes the other"),
        ("a: {}", "a has no terms"),
        ("../a: {HP:0000347: 3}", "needs a name of small letters"),
        ("{}", "holds no keys; write `name: {HP:0000316: 3.0}`"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, capsys, text, message):
    path = tmp_path / "conditions.yaml"
    path.write_text(text)
    folder = tmp_path / "made"
    assert main(["phantom", "make", str(folder), "--conditions", str(path)]) == WRONG_INPUT
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not folder.exists()


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_conditions(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "phantom-7"], "choose phantom-20 or phantom-103"),
        (["--benchmark", "phantom-20", "--seed", "1"], "leave out every option"),
        (["--conditions", "x.yaml", "--classes", "3"], "leave out --classes"),
        (["--classes", "0"], "--classes 0"),
        (["--size-px", "7"], "--size-px 7"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, capsys, arguments, message):
    folder = tmp_path / "made"
    assert main(["phantom", "make", str(folder), *arguments]) == WRONG_INPUT
    assert message in capsys.readouterr().err
    assert not folder.exists()
