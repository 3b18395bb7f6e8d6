"""Imports go one way: flows, tasks, synth_pipeline; and help comes without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
#: What each layer must not import.
FORBIDDEN = {
    "synth_pipeline": {"prefect", "tasks", "flows", "tests"},
    "tasks": {"flows", "tests"},
    "flows": {"tests"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of every import of a file, also of those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_layer_imports_what_lies_above_it(layer):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & FORBIDDEN[layer], path


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_files_can_be_read_in_a_sitting(layer):
    for path in (ROOT / layer).rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_tasks_hold_no_mathematics():
    for path in (ROOT / "tasks").glob("*.py"):
        assert not imported(path) & {"numpy", "torch", "PIL", "pyarrow"}, path


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["plan", "--help"]]
)
def test_help_needs_no_torch_and_no_prefect(arguments):
    program = (
        "import sys\n"
        "from flows.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "heavy = {'torch', 'prefect', 'diffusers', 'mediapipe', 'timm'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout or "synth-pipeline 0." in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU wants triton")
def test_triton_stays_out_of_memory_and_torch_compiles_without():
    code = (
        "import sys; from synth_pipeline import loaded_base; import torch;"
        "assert sys.modules['triton'] is None;"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).sum() == 4"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
