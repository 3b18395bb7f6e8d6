"""Configurations of studies that go wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import STUDY


@pytest.fixture
def write_config(tmp_path) -> Callable[..., Path]:
    """Write the small study with another source; returns its file."""

    def write(source: Path | str, old: str = "", new: str = "") -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(STUDY.format(source=source).replace(old, new))
        return path

    return write
