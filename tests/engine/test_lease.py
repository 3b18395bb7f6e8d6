"""A run's lease: who begins after the dispatcher has given the run up does nothing."""

import pytest

from flows.lease import Watch, held, lease_path
from synth_pipeline.errors import StageError


def test_a_run_that_was_given_up_does_not_begin_any_more(tmp_path):
    watch = Watch(lease_path(tmp_path, "run"))
    watch.give_up()
    with pytest.raises(StageError, match="too late"), held(watch.path):
        raise AssertionError("it began")
    assert not list(watch.path.parent.iterdir()), "the note is left"


def test_a_run_that_has_begun_is_not_given_up(tmp_path):
    watch = Watch(lease_path(tmp_path, "run"))
    with held(watch.path):
        with pytest.raises(FileExistsError):
            watch.give_up()
        assert watch.taken() and not watch.ended() and not watch.dead()
        assert list(watch.path.parent.iterdir()) == [watch.path]
    assert watch.ended()
