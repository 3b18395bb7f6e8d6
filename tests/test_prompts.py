"""Prompts: placeholders that have no value are refused, and ends that are not read are told."""

import json
import subprocess
import sys

import pytest

from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import StudyConfig, load_config
from synth_pipeline.errors import InputError
from synth_pipeline.prompts import cut_prompts


def refused(tmp_path, **keys: object) -> str:
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({"name": "s", "cases": {"source": "photos"}, **keys}))
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        load_config(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("a {age} year old {class_name}", "no value for {age}"),
        ("a {class_name} {0}", "no value for {0}"),
        ("a {class_name} {}", "no value for {}"),
        ("a {class_name.__class__}", "no value for {class_name.__class__}"),
        ("a {class_name[0]}", "no value for {class_name[0]}"),
        ("a {class_name!r} child", "without a conversion or a format"),
        ("a {class_name:>20} child", "without a conversion or a format"),
        ("a {class_name child", "brace has no partner"),
        ("a class_name} child", "brace has no partner"),
        ("a {class_name} child {", "brace has no partner"),
        ("a {{class_name}} child", "must contain {class_name}"),
        ("a child", "must contain {class_name}"),
        ("", "must contain {class_name}"),
    ],
)
def test_a_placeholder_without_a_value_is_refused(tmp_path, prompt, complaint):
    told = refused(tmp_path, dreambooth={"instance_prompt": prompt})
    assert "dreambooth.instance_prompt: " in told
    assert complaint in told


def test_placeholders_where_nothing_is_filled_in_are_refused(tmp_path):
    told = refused(
        tmp_path,
        dreambooth={"class_prompt": "photo of a {class_name}"},
        sampling={"vary": {"light": ["dim light", "{light}"]}},
    )
    assert "dreambooth.class_prompt: is used as it is" in told
    assert "sampling.vary: is used as it is" in told


@pytest.mark.parametrize("prompt", ["{class_name}", "a {{x}} {class_name} and {class_name}"])
def test_what_can_be_filled_in_is_taken(prompt):
    config = StudyConfig.model_validate(
        {"name": "s", "cases": {"source": "x"}, "dreambooth": {"instance_prompt": prompt}}
    )
    assert "{class_name" not in config.dreambooth.instance_prompt.format(class_name="Q")


@pytest.fixture(scope="module")
def base():
    return resolve_base("embedded")  # it reads 48 tokens


def told(base, names, **keys: object) -> list[str]:
    config = StudyConfig.model_validate({"name": "s", "cases": {"source": "x"}, **keys})
    return cut_prompts(config, base, names)


def test_a_class_whose_prompt_is_cut_is_told_by_name(base):
    long = "Kabuki " * 28 + "syndrome"
    assert told(base, ["Noonan syndrome", "Rubinstein-Taybi"]) == []
    (sentence,) = told(base, ["Noonan syndrome", long])
    assert long in sentence
    assert "Noonan" not in sentence
    assert "48 tokens" in sentence


def test_many_classes_are_told_in_one_line(base):
    names = [f"{number} {'syndrome ' * 20}" for number in range(100)]
    (sentence,) = told(base, names)
    assert "95 more" in sentence
    (sentence,) = told(base, names[:1])
    assert "this class" in sentence


def test_words_that_are_added_count_and_so_does_the_class_prompt(base):
    vary = {"light": ["dim light", "a very long word " * 8], "place": ["outside"]}
    (sentence,) = told(base, ["Noonan"], sampling={"vary": vary})
    assert "sampling.vary" in sentence
    long = {"class_prompt": "photo of a child " * 20}
    assert told(base, ["Noonan"], dreambooth=long) == []
    (sentence,) = told(base, ["Noonan"], dreambooth={**long, "prior_weight": 1.0})
    assert "dreambooth.class_prompt" in sentence


def test_short_prompts_are_counted_without_the_tokenizers_library():
    """Or `plan` would take seconds."""
    code = (
        "import sys; from synth_pipeline.prompts import cut_prompts;"
        "from synth_pipeline.base_model import resolve_base;"
        "from synth_pipeline.config import StudyConfig;"
        "config = StudyConfig.model_validate({'name': 's', 'cases': {'source': 'x'}});"
        "cut_prompts(config, resolve_base('embedded'), ['Noonan syndrome']);"
        "print('transformers' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
