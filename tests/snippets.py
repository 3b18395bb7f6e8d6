"""Every snippet and every command in what people read, found wherever it stands."""

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.command_line import ROOT

#: Where our files lie; whatever else is in a checkout (environments, results) is not ours.
_FOLDERS = ("benchmarks", "configs", "deploy", "docs", "flows", "synth_pipeline", "tasks")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:synth-pipeline|prefect|docker compose|make|python -m|pip) [^`]+)`")
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$", re.MULTILINE)
_LIKE_CODE = re.compile(r"^ +(from \w|import \w|>>> |\w+ = \w+[.(])", re.MULTILINE)
_LIKE_COMMAND = re.compile(r"(?:synth-pipeline|python -m|prefect|docker|pip) \S")


@dataclass(frozen=True)
class Snippet:
    """A piece of code or a command, and where it stands."""

    kind: str
    text: str
    where: str


def files(*endings: str) -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.is_file() and path.suffix in endings]
    for folder in _FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in endings]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def fenced(text: str, where: str) -> list[Snippet]:
    return [
        Snippet(language or "shell", block, f"{where}:{text[: match.start()].count(chr(10)) + 1}")
        for match in _FENCE.finditer(text)
        for language, block in [match.groups()]
    ]


def of_markdown() -> list[Snippet]:
    return [
        snippet
        for path in files(".md")
        for snippet in fenced(path.read_text(), str(path.relative_to(ROOT)))
    ]


def of_docstrings() -> list[Snippet]:
    """Blocks after `::`, and commands that stand in a line of their own."""
    found = []
    for path, docstring in docstrings():
        where = str(path.relative_to(ROOT))
        for match in re.finditer(r"::\n\n((?:(?: {4,}.*)?\n?)+)", docstring):
            block = textwrap.dedent(match[1])
            kind = "shell" if _LIKE_COMMAND.match(block) else "python"
            found.append(Snippet(kind, block, where))
        for line in re.findall(r"^ {4}(\S.*)$", docstring, re.MULTILINE):
            if _LIKE_COMMAND.match(line):
                found.append(Snippet("shell", line, where))
    return found


def unmarked() -> list[str]:
    """Docstrings with lines like code outside of a marked block, which nobody would execute."""
    found = []
    for path, docstring in docstrings():
        rest = re.sub(r"::\n\n((?:(?: {4,}.*)?\n?)+)", "", docstring)
        if _LIKE_CODE.search(_SECTION.split(rest)[0]):
            found.append(f"{path.relative_to(ROOT)}: {rest[:80]!r}")
    return found


def docstrings() -> Iterator[tuple[Path, str]]:
    for path in files(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield path, text


def inline() -> list[Snippet]:
    """Commands in backticks: in documents, in messages (X for what is put in), in comments."""
    found = []
    for path in files(".md", ".yaml", ".j2", ".sh"):
        found += _inline(path.read_text(), path)
    for path in files(".py"):
        tree = ast.parse(path.read_text())
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
                  for part in ast.walk(node) if part is not node}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found += _inline(_as_text(node), path)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += _inline(node.value, path) if id(node) not in inside else []
    return found


def _inline(text: str, path: Path) -> list[Snippet]:
    one_line = re.sub(r"\s+", " ", text)
    return [
        Snippet("shell", command, str(path.relative_to(ROOT)))
        for command in _INLINE.findall(one_line)
    ]


def _as_text(node: ast.JoinedStr) -> str:
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
    )


def commented() -> list[Snippet]:
    """Commands in the comments that open a file: of configurations, deployments, containers."""
    found = []
    for path in [*files(".yaml"), ROOT / "Dockerfile"]:
        head = []
        for line in path.read_text().splitlines():
            if not line.startswith("#"):
                break
            head.append(line.removeprefix("#"))
        text = re.sub(r"\\\n\s*", "", "\n".join(head))
        for line in text.splitlines():
            own = re.match(rf" {re.escape(path.name)}: (.*)", line)
            indented = re.match(r" {3,}(\S.*)", line)
            command = own or indented or re.match(r" ((?:prefect|synth-pipeline) \S.*)", line)
            if command:
                found.append(Snippet("shell", command[1], str(path.relative_to(ROOT))))
    return found
