"""YAML that people write: whatever is wrong with it is one sentence with its line and column."""

import re
import time

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows.cli import WRONG_INPUT, main
from synth_pipeline import yaml_files
from synth_pipeline.config import load_config
from synth_pipeline.errors import InputError

START = "name: x\ncases: {source: a}\n"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

#: A value, what is said of it, and the column of the fault within the value.
VALUES = [
    ("[" * 10_000, "nested more than 50 levels deep", None),
    ("{a: " * 10_000, "nested more than 50 levels deep", None),
    ("2023-02-30", "'2023-02-30' is not a date", 1),
    ("2023-01-01 25:00:00", "is not a date", 1),
    ("!!timestamp soon", "'soon' is not a date", 1),
    ("!!int abc", "'abc' is not a whole number", 1),
    ("!!int ''", "'' is not a whole number", 1),
    ("!!float x", "'x' is not a number", 1),
    ("!!bool maybe", "'maybe' is not true or false", 1),
    ("9" * 5_000, "too large a number", 1),
    ("9" * 20, "too large a number", 1),
    ("-" + "9" * 5_000, "too large a number", 1),
    ("0x" + "f" * 6_000, "too large a number", 1),
    ("[1, 1e3, !!int x]", "'x' is not a whole number", 10),
    ("{b: 1, c: 2, b: 3}", "the key 'b' stands here and in line", 14),
    ("&a [*a]", "the alias *a lies inside of what it stands for", 5),
    ("&a {b: {c: *a}}", "the alias *a lies inside of what it stands for", 12),
    ("*nobody", "undefined alias", 1),
    ("!!python/object/apply:os.system [ls]", "could not determine a constructor", 1),
    ("!!set [a]", "expected a mapping node", 1),
    ("{[1, [2]]: 3}", "unhashable key", 2),
    ("{<<: 3}", "expected a mapping or list of mappings", 6),
    ("'never closed", "found unexpected end of stream", None),
    ("@x", "cannot start any token", 1),
    ("\x07", "the character U+0007 is not allowed", 1),
]


def refused(capsys, *arguments) -> str:
    begun_s = time.monotonic()
    assert main([str(each) for each in arguments]) == WRONG_INPUT
    assert time.monotonic() - begun_s < 30
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert len(said) < 900, said
    return said


@pytest.mark.parametrize(("value", "told", "column"), VALUES)
def test_a_fault_in_a_file_has_a_line_and_a_column(tmp_path, capsys, value, told, column):
    (tmp_path / "bad.yaml").write_text(f"{START}selection:\n  scales: {value}\n")
    said = refused(capsys, "plan", tmp_path / "bad.yaml", "--root", tmp_path / "root")
    assert told in said
    found = re.search(r"Configuration (.*bad\.yaml), line (\d+), column (\d+)", said)
    assert found, said
    if column is not None:
        assert (int(found[2]), int(found[3])) == (4, len("  scales: ") + column), said
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("value", "told", "column"), VALUES)
def test_a_fault_of_an_override_has_one_too(tmp_path, capsys, value, told, column):
    (tmp_path / "good.yaml").write_text(START)
    override = f"selection.scales={value}"
    said = refused(capsys, "plan", tmp_path / "good.yaml", "--set", override)
    assert told in said
    assert "--set selection.scales, line 1, column " in said
    if column is not None:
        assert f"column {column} " in said or f"column {column}:" in said, said


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f"{START}seed: 1\nname: y\n".encode(), "line 4, column 1 .*'name' stands here and in lin"),
        (b"? " * 3_000, "line 1, column 101 .*nested"),
        (b"- " * 3_000, "line 1, column 101 .*nested"),
        (LAUGHS.encode(), "column 5 .*more than 100,000 values"),
        (b"a: 1\n---\nb: 2\n", "line 2, column 1 .*another document"),
        (b"name: x\nnote: caf\xe9\n", "line 2, column 10: this is not UTF-8"),
        ("name: x\n".encode("utf-16"), "line 1, column 1: this is not UTF-8"),
        (b"name: x\n# " + b"x" * 1_100_000, "is larger than 1 MB"),
        (b"a:\tb\n\tc: d\n", "cannot start any token"),
        (b"1: x\n", "the key 1 is not a text"),
        (b"yes: x\n", "the key True is not a text"),
        (b"[a, b]\n", "holds no keys"),
        (b"", "holds no keys"),
        (b"\0", "line 1, column 1: the character U.0000"),
        ("".join(f"k{n}: {n}\n" for n in range(500)).encode(), "and 49. more"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, capsys, content, told):
    (tmp_path / "bad.yaml").write_bytes(content)
    said = refused(capsys, "plan", tmp_path / "bad.yaml")
    assert re.search(told, said), said
    assert "bad.yaml" in said
    conditions = ("phantom", "make", tmp_path / "out", "--conditions", tmp_path / "bad.yaml")
    assert "bad.yaml" in refused(capsys, *conditions)
    assert not (tmp_path / "out").exists()


def test_something_endless_is_not_read_to_its_end(capsys):
    assert "larger than 1 MB" in refused(capsys, "plan", "/dev/zero")


def test_a_value_that_is_no_number_is_none(tmp_path):
    (tmp_path / "a.yaml").write_text(START)
    for value in (".inf", "-.inf", ".nan"):
        with pytest.raises(InputError, match=r"sampling\.oversample"):
            load_config(tmp_path / "a.yaml", [f"sampling.oversample={value}"])


def test_aliases_and_merges_are_yaml_as_ever(tmp_path):
    text = "a: &a {x: 1, y: [2, 3]}\nb: {<<: *a, x: 4}\nc: *a\n"
    assert yaml_files.parse(text, "it") == yaml.safe_load(text)
    (tmp_path / "a.yaml").write_text(f"{START}ranking: &b {{backbone: resnet18}}\ncopies: *b\n")
    config = load_config(tmp_path / "a.yaml", ["ranking.backbone=resnet50"])
    assert (config.ranking.backbone, config.copies.backbone) == ("resnet50", "resnet18")


@given(st.text(alphabet="ab01:-[]{},&*!?|>'\"#%@` \n\t.<=~\\xné\ud800", max_size=60))
@example("&a a: &a b")
@settings(max_examples=400, deadline=None)
def test_no_text_is_answered_with_another_error(text):
    try:
        found = yaml_files.parse(text, "it")
    except InputError as error:
        assert "\n" not in str(error)
        assert ", line " in str(error)
    else:
        assert found == yaml.safe_load(text)
