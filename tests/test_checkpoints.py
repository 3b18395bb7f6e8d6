"""State on disk: seen whole or not at all, and only by whom it belongs to."""

import resource

import pytest
import torch

from synth_pipeline import checkpoints


@pytest.fixture
def small_disk():
    """No file may grow beyond 64 KB: writing fails in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_state(tmp_path, small_disk):
    path = tmp_path / "state.pt"
    checkpoints.save(path, {"identity": "a", "weights": torch.ones(10)})
    with pytest.raises(OSError):
        checkpoints.save(path, {"identity": "a", "weights": torch.zeros(1_000_000)})
    state = checkpoints.load(path, "a")
    assert state is not None
    assert torch.equal(state["weights"], torch.ones(10))
    assert [each.name for each in tmp_path.iterdir()] == ["state.pt"]


def test_a_state_of_something_else_is_none(tmp_path):
    path = tmp_path / "state.pt"
    assert checkpoints.load(path, "a") is None
    checkpoints.save(path, {"identity": "b"})
    assert checkpoints.load(path, "a") is None
