"""Who runs a study, and who waits for it."""

import threading

import pytest

from flows.locking import only_run
from synth_pipeline.errors import InputError


def test_a_second_run_is_refused_in_one_sentence(tmp_path):
    folder = tmp_path / "studies" / "one"
    with (
        only_run(folder),
        pytest.raises(InputError, match="being run by another process"),
        only_run(folder),
    ):
        pass
    with only_run(folder):
        pass


def test_a_deployed_run_waits_for_the_one_on_the_command_line(tmp_path, caplog):
    """New cases that arrive meanwhile have nobody to try again."""
    folder, order = tmp_path / "studies" / "one", []
    caplog.set_level("INFO")

    def deployed():
        with only_run(folder, wait=True):
            order.append("deployed")

    with only_run(folder):
        waiting = threading.Thread(target=deployed)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        order.append("command line")
    waiting.join(30)
    assert order == ["command line", "deployed"]
    assert "waiting" in caplog.text
