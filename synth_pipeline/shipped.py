"""Configurations and deployments that come with the package, in a checkout and in a wheel."""

import shlex
from pathlib import Path

_PACKAGE = Path(__file__).parent
_IN_WHEEL = _PACKAGE / "assets" / "shipped"
#: In a wheel, setup.py has put them into the package; in a checkout they lie beside it.
_HOME = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent
CONFIGS = _HOME / "configs"
PREFECT_YAML = _HOME / "prefect.yaml"
AUTOMATIONS = _HOME / "deploy" / "automations.yaml"

#: Commands that work in every folder; the first wants the names of packages.
INSTALL = f"pip install -c {shlex.quote(str(_HOME / 'constraints.txt'))}"
DEPLOY = f"prefect deploy --all --prefect-file {shlex.quote(str(PREFECT_YAML))}"
AUTOMATE = f"prefect automation create --from-file {shlex.quote(str(AUTOMATIONS))}"


def find_config(path: Path) -> Path:
    """The file that a configuration's name means.

    Args:
        path: what the user gave: a file, or `quickstart`, `quickstart.yaml` or
            `configs/quickstart.yaml` for the one that comes with the package.

    Returns:
        The user's file where there is one; otherwise the package's of that name; otherwise `path`.
    """
    if path.exists() and not path.is_dir():
        return path
    if path.parent in (Path(), Path("configs")):
        ours = CONFIGS / f"{path.name.removesuffix('.yaml')}.yaml"
        if ours.is_file():
            return ours
    return path
