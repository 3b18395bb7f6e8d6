"""The configuration: all errors at once, one sentence, and what a key slice holds."""

from pathlib import Path

import pytest
import yaml

from synth_pipeline.config import SamplingConfig, Section, StudyConfig, dump_config, load_config
from synth_pipeline.errors import InputError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def write(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_in_the_repository_are_valid_and_explain_themselves(path):
    config = load_config(path, ["cases.source=somewhere"])
    first = path.read_text().splitlines()[0]
    assert config.name == path.stem
    assert first.startswith("# ") and path.name in first


def test_there_are_configs():
    assert {"quickstart.yaml", "faces.yaml"} <= {path.name for path in CONFIGS}


def test_every_error_is_reported_at_once(tmp_path):
    path = write(tmp_path, "name: Bad Name\nseed: -1\ncases: {source: a, sorce: b}\nx: 1\n")
    with pytest.raises(InputError) as caught:
        load_config(path)
    text = str(caught.value)
    for part in ("name", "seed", "cases.sorce is not a known key", "x is not a known key"):
        assert part in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("cases.max_classes", "key.subkey=value"),
        ("cases.max_classes=[", "not valid YAML"),
        ("name.first=x", "is a value, not a section"),
        ("cases.max_classes=many", "cases.max_classes"),
        ("dreambooth.instance_prompt=a photo", "class_name"),
        ("selection.scales=[0]", "selection.scales"),
        ("selection.scales=[1.5]", "selection.scales"),
    ],
)
def test_wrong_override_is_one_sentence(tmp_path, override, complaint):
    path = write(tmp_path, "name: x\ncases: {source: a}\n")
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        load_config(path, [override])
    assert complaint in str(caught.value)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "a: [", "\x00\xff"])
def test_wrong_file_is_one_sentence(tmp_path, content):
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        load_config(write(tmp_path, content))


def test_missing_file_names_itself(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_overrides_apply_in_order(tmp_path):
    path = write(tmp_path, "name: x\ncases: {source: a}\n")
    config = load_config(path, ["dreambooth.steps=5", "dreambooth.steps=7", "seed=3"])
    assert (config.dreambooth.steps, config.seed) == (7, 3)


def test_scales_keep_integers_apart_from_shares(tmp_path):
    path = write(tmp_path, "name: x\ncases: {source: a}\nselection: {scales: [1, 0.5, 1.0, 200]}\n")
    scales = load_config(path).selection.scales
    assert [type(scale) for scale in scales] == [int, float, float, int]


@pytest.mark.parametrize(
    "cases", ["{source: a}", "{format: phantom, phantom: {benchmark: phantom-20}}"]
)
def test_dumped_configuration_loads_as_the_same(tmp_path, cases):
    config = load_config(write(tmp_path, f"name: x\ncases: {cases}\n"))
    assert load_config(write(tmp_path, dump_config(config))) == config
    assert yaml.safe_load(dump_config(config))["selection"]["scales"] == [0.5, 1.0]


def test_speed_does_not_enter_the_key():
    assert SamplingConfig(batch_size=1).key_slice() == SamplingConfig(batch_size=64).key_slice()
    assert "steps" in SamplingConfig().key_slice()


def documented() -> dict[str, str]:
    """Key to default, as docs/configuration.md tells them."""
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    return {row[0].strip("| `"): row[1].strip("` ") for row in rows}


def fields(section=StudyConfig, prefix=""):
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from fields(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, info.default


def test_every_key_is_documented_with_its_default():
    known = dict(fields())
    told = documented()
    assert told.keys() == known.keys()
    for name, default in known.items():
        if isinstance(default, bool | int | float | list | tuple):
            value = list(default) if isinstance(default, tuple) else default
            written = yaml.safe_load(told[name])
            # YAML 1.1 reads 1e-4 as a text; so do the people who are told it.
            written = float(written) if isinstance(default, float) else written
            assert written == value, name
