"""Values of a configuration that the command line gives: `--set key.subkey=value`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from synth_pipeline import yaml_files
from synth_pipeline.errors import InputError

#: What stands for "none" where a text may be left out, as in YAML.
_NONE = ("", "~", "null", "Null", "NULL")


def with_overrides(
    values: Mapping[str, Any], texts: Sequence[str], model: type[BaseModel]
) -> dict[str, Any]:
    """Apply overrides to the values of a file, in order; the values are not validated here.

    Args:
        values: as they stand in the file.
        texts: such as `cases.max_classes=5`.
        model: of the configuration; it says which keys take a text.

    Raises:
        InputError: one is not of that form, its value is no YAML, or its section is a value.
    """
    changed = dict(values)
    for text in texts:
        keys, value = parse_override(text, model)
        node = changed
        for key in keys[:-1]:
            # A section that is named and left empty is none in YAML. Two sections may be one
            # object, by an alias: each is copied before it is changed.
            section = {} if node.get(key) is None else node[key]
            if not isinstance(section, dict):
                raise InputError(f"--set {text}: {key!r} is a value, not a section.")
            node[key] = dict(section)
            node = node[key]
        node[keys[-1]] = value
    return changed


def parse_override(text: str, model: type[BaseModel]) -> tuple[list[str], Any]:
    """Split one `a.b=value`.

    The value of a key that takes a text is that text, whatever characters are in it; the value of
    any other key is read as YAML.

    Raises:
        InputError: there is no `=`, the key is empty, or the value is no YAML.
    """
    name, equals, raw = text.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise InputError(f"--set {text!r} is not of the form key.subkey=value.")
    kinds = _kinds_of(keys, model)
    if str not in kinds:
        return keys, yaml_files.parse(raw, f"--set {name}")
    if NoneType in kinds and raw in _NONE:
        return keys, None
    if bool in kinds and isinstance(value := _yaml_or_text(raw), bool):
        return keys, value
    # Many people keep quotes around a text, as YAML wants them; a file may be called so, too.
    quoted = len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "'\""
    return keys, _yaml_or_text(raw) if quoted and not Path(raw).exists() else raw


def _yaml_or_text(raw: str) -> Any:
    try:
        return yaml_files.parse(raw, "--set")
    except InputError:
        return raw


def _kinds_of(keys: Sequence[str], model: Any) -> set[Any]:
    """The types that a dotted key takes; none where no such key is known."""
    for key in keys[:-1]:
        info = model.model_fields.get(key)
        model = info.annotation if info else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return set()
    info = model.model_fields.get(keys[-1])
    return _kinds(info.annotation) if info else set()


def _kinds(annotation: Any) -> set[Any]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(parts[0])
    if origin in (Union, UnionType):
        return {kind for part in parts for kind in _kinds(part)}
    return {type(part) for part in parts} if origin is Literal else {annotation}
