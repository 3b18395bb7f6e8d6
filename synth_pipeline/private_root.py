"""A root folder is its owner's: folders of mode 700, files of mode 600, whatever the umask.

It holds patients' faces, models that remember them, and names of conditions.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from synth_pipeline.atomic import half_made, sweep_beside, sweep_half_made

#: What new files and folders lack.
UMASK = 0o077
#: What lies below a root and is ours.
STORE, STUDIES, PREFECT, SCRATCH = "store", "studies", "prefect", ".scratch"
FOLDERS = (STORE, STUDIES, PREFECT, SCRATCH, "quarantine", "registry")


def make_private(root: Path) -> int:
    """Take from everybody else what they may do under a root; returns how many modes changed.

    Folders of ours below the root are gone through whole; links are not followed, and what belongs
    to another user is left to them. The root itself is left where it is more than a root: the
    folder one works in or lives in, one above these, or one with a set-group-id or a sticky bit,
    which somebody shares on purpose (Kubernetes sets it on volumes).
    """
    changed = 0 if _is_shared(root) else _tighten(root)
    for name in FOLDERS:
        changed += _tighten(root / name)
        for folder, below, files in os.walk(root / name):
            for each in (*below, *files):
                changed += _tighten(Path(folder, each))
    return changed


def sweep(root: Path) -> int:
    """Remove what killed commands left under a root, beside the store; returns how many."""
    removed = sweep_half_made(root / SCRATCH)
    folders = [root / PREFECT, root / "quarantine", root / "registry"]
    studies = root / STUDIES
    if studies.is_dir():
        folders += [path for path in studies.iterdir() if path.is_dir()]
    return removed + sum(map(sweep_beside, folders))


@contextlib.contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """An empty folder under a root for pictures that are not kept; private, and swept after a kill.

    Raises:
        OSError: the root cannot be written.
    """
    is_new = not root.exists()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    (root / SCRATCH).mkdir(mode=0o700, exist_ok=True)
    try:
        with half_made(root / SCRATCH) as folder:
            yield folder
    finally:
        if is_new:
            # As it was before, unless another command began meanwhile.
            with contextlib.suppress(OSError):
                (root / SCRATCH).rmdir()
                root.rmdir()


def _tighten(path: Path) -> int:
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or not mode & UMASK:
            return 0
        path.chmod(stat.S_IMODE(mode) & ~UMASK)
    except OSError:
        return 0  # it is gone, or another user's
    return 1


def _is_shared(root: Path) -> bool:
    try:
        mode = root.stat().st_mode
        real = root.resolve()
        more = (Path.cwd().resolve(), Path.home().resolve())
    except (OSError, RuntimeError):
        return True
    return bool(mode & (stat.S_ISGID | stat.S_ISVTX)) or any(
        each.is_relative_to(real) for each in more
    )
