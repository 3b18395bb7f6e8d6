"""A working folder in which files lie that are called like modules: none may ever be imported."""

from pathlib import Path

#: What our processes import early: of Python, of what it starts with, and of what we depend on.
_NAMES = (
    *("socket", "ssl", "json", "logging", "random", "threading", "subprocess", "multiprocessing"),
    *("sitecustomize", "usercustomize", "numpy", "PIL", "torch", "mediapipe", "prefect", "uvicorn"),
    *("starlette", "pip", "yaml", "httpx", "flows", "tasks", "synth_pipeline"),
)


def plant(folder: Path) -> Path:
    """Fill a folder with such files; whichever runs writes its name into the file returned."""
    folder.mkdir(exist_ok=True)
    ran = folder / "ran.txt"
    for name in _NAMES:
        (folder / f"{name}.py").write_text(
            f"with open({str(ran)!r}, 'a') as out: out.write(__name__ + '\\n')\n"
            f"raise ImportError('the planted {name} was imported')\n"
        )
    return ran
