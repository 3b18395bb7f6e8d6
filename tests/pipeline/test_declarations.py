"""No change of the code changes a content key by accident."""

import pytest

from tests.pipeline.declared import CONFIGS, GOLDEN, lines_of


@pytest.mark.parametrize("config", CONFIGS)
def test_every_node_is_declared_as_before(config, tmp_path):
    """Where this fails on purpose, `python -m tests.pipeline.declared` writes the files anew."""
    assert lines_of(config, tmp_path) == (GOLDEN / f"{config}.jsonl").read_text().splitlines()
