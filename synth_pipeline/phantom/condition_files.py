"""A user's own conditions, as a YAML file of Human Phenotype Ontology terms.

robin-like:
  HP:0000347: 3.5                              # size in inter-individual SD
  HP:0000316: {size_sd: 2.8, penetrance: 0.9}  # shown by nine of ten
"""

import re
from pathlib import Path
from typing import Any

from synth_pipeline import yaml_files
from synth_pipeline.errors import InputError
from synth_pipeline.phantom.phenotypes import Condition, term

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def read_conditions(path: Path) -> list[Condition]:
    """Read conditions in the file's order.

    Raises:
        InputError: the file is missing or no such YAML, a term is unknown, or a size is impossible.
    """
    raw = yaml_files.read_mapping(path, "Conditions", "write `name: {HP:0000316: 3.0}`")
    return [_condition(path, name, terms) for name, terms in raw.items()]


def _condition(path: Path, name: Any, terms: Any) -> Condition:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{path}: the condition {name!r} needs a name of small letters, digits and hyphens."
        )
    if not isinstance(terms, dict) or not terms:
        raise InputError(f"{path}: {name} has no terms; write `{name}: {{HP:0000316: 3.0}}`.")
    sizes, penetrance, fields = {}, {}, set()
    for hpo_id, value in terms.items():
        known = term(str(hpo_id))
        if known.field in fields:
            raise InputError(
                f"{path}: {name} has two terms of which one undoes the other ({known.name})."
            )
        fields.add(known.field)
        entry = value if isinstance(value, dict) else {"size_sd": value}
        if set(entry) - {"size_sd", "penetrance"}:
            raise InputError(f"{path}: {name}, {hpo_id}: give size_sd and penetrance only.")
        size, share = entry.get("size_sd"), entry.get("penetrance", 1.0)
        where = f"{path}: {name}, {hpo_id}"
        sizes[known.hpo_id] = known.sign * _number(f"{where}: size_sd", size, 0.1, 5.0)
        penetrance[known.hpo_id] = _number(f"{where}: penetrance", share, 0.0, 1.0)
    return Condition(name, sizes, penetrance)


def _number(what: str, value: Any, low: float, high: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise InputError(f"{what} {value!r} is impossible; choose between {low:g} and {high:g}.")
    return float(value)
