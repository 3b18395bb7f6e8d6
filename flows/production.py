"""A study that a deployment starts: which one it is, and that it is not run twice at a time.

On the command line both are settled before the flow begins. There somebody reads that the study is
being run; new cases that arrive meanwhile have nobody to try again, so their run waits.
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
    """Settle a deployed study and hold it; gives its root on this machine and its name.

    Raises:
        InputError: as of `which_study`.
    """
    root, name = which_study(root, name)
    if in_a_deployment() is None:
        yield root, name
        return
    with only_run(Path(root) / "studies" / name, wait=True):
        yield root, name


def which_study(root: str, name: str) -> tuple[str, str]:
    """The root on this machine and the name of a deployed study.

    Raises:
        InputError: no study is laid down, it is not clear which one is meant, or the deployment is
            of another version.
    """
    run = in_a_deployment()
    if run is None:
        return root, name
    check_version("that started this run", run.deployment_version)
    root = root_here(root)
    name = name or _the_only_one(Path(root) / "studies")
    folder = Path(root) / "studies" / name
    if not (folder / "config.resolved.yaml").exists():
        raise InputError(
            f"No study {name} is laid down under {root}; "
            "run `synth-pipeline run CONFIG --engine workers` there once."
        )
    return root, name


def _the_only_one(studies: Path) -> str:
    names = sorted(path.parent.name for path in studies.glob("*/config.resolved.yaml"))
    if len(names) == 1:
        return names[0]
    which = ", ".join(names) if names else "none is laid down; use `synth-pipeline run CONFIG` once"
    raise InputError(
        f"Which study under {studies.parent} is meant ({which})? Give the parameter name."
    )
