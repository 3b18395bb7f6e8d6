"""What Prefect keeps of an error does not say where patients' photos lie."""

from pathlib import Path

from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError
from synth_pipeline.inbox import Inbox
from tasks.running import failed


def test_no_place_is_in_the_states_sentence(tmp_path):
    inbox = str(tmp_path / "ward 7" / "inbox")
    cases = CasesConfig(format="registry", inbox=inbox, source="photos/ward 7")
    try:
        Inbox(inbox)
    except InputError as error:
        told = failed(cases, error).message
    assert told == "The inbox (not shown) is no folder that is there; make it."
    for place in ("photos/ward 7", str(Path("photos/ward 7").absolute())):
        told = failed(cases, InputError(f"cases.source {place} does not exist.")).message
        assert told == "cases.source (not shown) does not exist."


def test_a_sentence_without_a_place_is_as_it_was():
    told = "The class is not there."
    assert failed(CasesConfig(source="s"), InputError(told)).message == told
