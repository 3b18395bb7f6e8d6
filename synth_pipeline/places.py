"""Places on this machine that a configuration names: files and folders."""

from pathlib import Path


def from_home(place: str) -> str:
    """A place with `~` replaced by the home folder, as a shell does it; others stay as they are."""
    if not place.startswith("~"):
        return place
    try:
        return str(Path(place).expanduser())
    except RuntimeError:
        return place  # nobody is called so, and a folder may be
