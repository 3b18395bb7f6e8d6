"""Whether a shell command that people are told to type is one: asked of what would parse it."""

import importlib.util
import itertools
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import yaml

from flows.cli import _parser
from synth_pipeline.config import load_config
from synth_pipeline.shipped import find_config
from tests.command_line import ROOT

_WORDS = re.compile(r"^[\w./-]+$")
#: What stands for something of the user's.
_PLACEHOLDERS = {"CONFIG", "X"}


def commands(block: str) -> list[list[str]]:
    """The commands of a shell block; of one with prompts, only what follows those."""
    text = re.sub(r"\\\n\s*", "", block)
    text = text.replace("s3://BUCKET/PREFIX", "s3://bucket/prefix")
    lines = [re.sub(r"(^|\s)#\s.*", "", line) for line in text.splitlines()]
    lines = [line for line in lines if line.strip()]
    prompted = [line[2:] for line in lines if line.startswith("$ ")]
    found = []
    for line in prompted or lines:
        for part in re.split(r"&&|;|\|(?=\s)", line):
            for plain in _without_brackets(part.rstrip("& ")):
                words = shlex.split(plain, comments=True)
                while words and re.match(r"^[A-Z_]+=", words[0]):
                    words.pop(0)
                if words:
                    found.append(words)
    return found


def _without_brackets(line: str) -> list[str]:
    """`[--set a.b=c]...` is left out, and given once."""
    if not re.search(r"(^|\s)\[(-|\w+\])", line):
        return [line]
    return [
        re.sub(r"\s\[[^\]]*\](\.\.\.)?", "", line),
        re.sub(r"\s\[([^\]]*)\](\.\.\.)?", r" \1", line),
    ]


def check(words: list[str]) -> str:
    """Why a command is none; empty if it is one. Three dots stand for more of it."""
    program = words[0]
    rest = [
        word
        for before, word in itertools.pairwise(words)
        if word != "..." or before.startswith("-")
    ]
    if program in _CHECKS:
        return _CHECKS[program](rest)
    if (ROOT / program).is_file():
        return "" if (ROOT / program).stat().st_mode & 0o100 else f"{program} cannot be run"
    return f"nobody knows how to check {program}: add it to {Path(__file__).name}"


def _ours(words: list[str]) -> str:
    if _is_name(words):
        return ""
    try:
        options = _parser().parse_args(words)
    except SystemExit as stop:
        return "" if stop.code == 0 else "the command line refuses it"
    config = getattr(options, "config", None)
    if config is None or str(config) in _PLACEHOLDERS:
        return ""
    if not find_config(config).is_file():
        return f"there is no {config}"
    load_config(ROOT / find_config(config), ["cases.source=DIR", *options.overrides])
    return ""


def _is_name(words: list[str]) -> bool:
    """Whether it is a command's name in a sentence, as in "`synth-pipeline up` leaves ..."."""
    known = _parser()
    for word in words:
        below = [each.choices for each in known._actions if isinstance(each.choices, dict)]
        if not below or word not in below[0]:
            return False
        known = below[0][word]
    return True


def _prefect(words: list[str]) -> str:
    from prefect.cli._app import _app

    try:
        _app.parse_args(words, print_error=False, exit_on_error=False)
    except Exception as error:
        return f"Prefect refuses it: {error}"
    return _files(words)


def _make(words: list[str]) -> str:
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, check=False)
    return "" if done.returncode == 0 else done.stderr.decode()


def _python(words: list[str]) -> str:
    if words[0] != "-m":
        return f"not a module: {words}"
    spec = importlib.util.find_spec(words[1])
    if spec is None or spec.origin is None:
        return f"there is no module {words[1]}"
    source = Path(spec.origin).read_text()
    missing = [word for word in words[2:] if word.startswith("--") and word not in source]
    return f"{words[1]} knows no {missing}" if missing and str(ROOT) in spec.origin else ""


def _pip(words: list[str]) -> str:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
        for name in extra.split(","):
            if name not in extras["optional-dependencies"]:
                return f"there is no extra {name}"
    if any("synth-pipeline" in word for word in words):
        return "synth-pipeline is on no package index"
    return _files(words)


def _docker(words: list[str]) -> str:
    if words[0] == "compose":
        services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
        named = [word for word in words[2:] if not word.startswith("-")]
        if words[1] in ("run", "up") and named and named[0] not in services:
            return f"compose.yaml has no service {named[0]}"
        if words[1] == "run":
            return _ours(words[words.index(named[0]) + 1 :])
        return ""
    if words[0] == "run" and "synth-pipeline" in words:
        return _ours(words[words.index("synth-pipeline") + 1 :])
    return _files(words)


def _files(words: list[str]) -> str:
    """Files of ours that are named must be there."""
    tops = {path.name for path in ROOT.iterdir()}
    for word in words:
        for name in re.split("=|:", word):
            for pool in ("cpu", "gpu"):
                path = name.replace("$POOL", pool)
                ours = _WORDS.match(path) and "/" in path and path.split("/")[0] in tops
                if (ours or path.endswith((".yaml", ".txt"))) and not Path(ROOT / path).exists():
                    return f"there is no {path}"
    return ""


def _shell(words: list[str]) -> str:
    return ""


_CHECKS: dict[str, Callable[[list[str]], str]] = {
    "synth-pipeline": _ours,
    "prefect": _prefect,
    "make": _make,
    "python": _python,
    "pip": _pip,
    "docker": _docker,
    "kubectl": _files,
    "helm": _files,
    # The shell's own.
    **dict.fromkeys(("export", "read", "for", "do", "done"), _shell),
}
assert shutil.which("make"), "the README's first command"
