"""YAML that people write: read without surprises, and every fault named by line and column.

PyYAML's safe loader runs no code, but it fails on some texts with errors of Python's own
(`ValueError` for a date that does not exist, `RecursionError`), takes the last of two equal keys in
silence, and lets a few aliases stand for billions of values. Here all of these are one sentence.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from synth_pipeline.errors import InputError

#: A study's file has some 3,000 bytes and 100 values, at most five levels deep.
_LARGEST_BYTES, _MOST_VALUES, _DEEPEST = 1_000_000, 100_000, 50
#: What Python raises for a scalar that is not what its tag says.
_UNREADABLE = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "timestamp": "a date",
}


def read_mapping(path: Path, what: str, advice: str) -> dict[str, Any]:
    """Read a file that holds keys with values.

    Args:
        path: of the file; what can be read once, such as a pipe, will do.
        what: the file is, as its sentences begin: "Configuration".
        advice: what to do instead, such as "name a YAML file".

    Raises:
        InputError: it cannot be read, is no such YAML, or holds no keys.
    """
    name = f"{what} {path}"
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise InputError(f"{name}: {reason}; {advice}.") from None
    if len(content) > _LARGEST_BYTES:
        raise InputError(f"{name} is larger than 1 MB; {advice}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = _place(content[: error.start].decode("utf-8", "replace"))
        raise InputError(f"{name}, {where}: this is not UTF-8; save it as UTF-8 text.") from None
    found = parse(text, name)
    if not isinstance(found, dict) or not found:
        raise InputError(f"{name} holds no keys; {advice}.")
    for key in found:
        if not isinstance(key, str):
            raise InputError(f"{name}: the key {key!r} is not a text; write it in quotes.")
    return found


def parse(text: str, name: str) -> Any:
    """Read a YAML text.

    Args:
        text: one document.
        name: of where it stands, as the sentence begins: "Configuration a.yaml" or "--set a.b".

    Raises:
        InputError: with the line and the column of what is wrong.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        where = _place(text[: error.position])
        character = f"the character U+{error.character:04X}"
        raise InputError(f"{name}, {where}: {character} is not allowed; remove it.") from None
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        parts = [" ".join(part.split()) for part in (error.context, error.problem) if part]
        raise InputError(
            f"{name}{where} is not valid YAML: {', '.join(parts)}; fix it there."
        ) from None
    finally:
        loader.dispose()


def _place(before: str) -> str:
    """Line and column of what follows a text."""
    return f"line {before.count(chr(10)) + 1}, column {len(before.rpartition(chr(10))[2]) + 1}"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, whose every error has a place."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        # How many values each finished node stands for, those behind its aliases included.
        self._values: dict[Node, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _error(f"it is nested more than {_DEEPEST} levels deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        assert node is not None
        if isinstance(event, AliasEvent):
            if node not in self._values:
                raise _error(f"the alias *{event.anchor} lies inside of what it stands for", event)
            return node
        _refuse_doubles(node)
        self._values[node] = 1 + sum(self._values[part] for part in _parts(node))
        if self._values[node] > _MOST_VALUES:
            raise _error(f"with its aliases it holds more than {_MOST_VALUES:,} values", node)
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            found = super().construct_object(node, deep)
        except _UNREADABLE:
            # Python reads no number of more than 4,300 digits.
            if re.fullmatch(r"[-+]?[\d_]+", str(node.value)):
                raise _error(f"{_short(node)} is too large a number", node) from None
            kind = node.tag.rpartition(":")[2]
            what = _KINDS.get(kind, f"of the kind {kind}")
            raise _error(f"{_short(node)} is not {what}", node) from None
        if isinstance(found, int) and abs(found) >= 2**63:
            raise _error(f"{_short(node)} is too large a number", node)
        return found


def _parts(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _refuse_doubles(node: Node) -> None:
    if not isinstance(node, MappingNode):
        return
    seen: dict[tuple[str, str], Node] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if first := seen.get((key.tag, key.value)):
            line = first.start_mark.line + 1
            raise _error(f"the key {_short(key)} stands here and in line {line}", key)
        seen[key.tag, key.value] = key


def _error(problem: str, where: Any) -> ConstructorError:
    return ConstructorError(None, None, problem, where.start_mark)


def _short(node: Node) -> str:
    text = str(node.value)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
