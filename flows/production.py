"""A study that a deployment starts: which one it is, and that it is not run twice at a time.

On the command line both are settled before the flow begins.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from flows.at_work import in_a_deployment, root_here
from flows.locking import only_run
from flows.server import check_version
from synth_pipeline.errors import InputError


@contextlib.contextmanager
def production(root: str, name: str) -> Iterator[tuple[str, str]]:
    """Settle a deployed study; gives its root on this machine and its name.

    Raises:
        InputError: no study is laid down, it is not clear which one is meant, it is being run, or
            the deployment is of another version.
    """
    run = in_a_deployment()
    if run is None:
        yield root, name
        return
    check_version("that started this run", run.deployment_version)
    root = root_here(root)
    name = name or _the_only_one(Path(root) / "studies")
    folder = Path(root) / "studies" / name
    if not (folder / "config.resolved.yaml").exists():
        raise InputError(
            f"No study {name} is laid down under {root}; "
            "run `synth-pipeline run CONFIG --engine workers` there once."
        )
    with only_run(folder):
        yield root, name


def _the_only_one(studies: Path) -> str:
    names = sorted(path.parent.name for path in studies.glob("*/config.resolved.yaml"))
    if len(names) == 1:
        return names[0]
    which = ", ".join(names) if names else "none is laid down; use `synth-pipeline run CONFIG` once"
    raise InputError(
        f"Which study under {studies.parent} is meant ({which})? Give the parameter name."
    )
