"""A store that was made before the library got its rooms is wholly there for the code of today."""

import json
import re

from flows.cli import main
from synth_pipeline.stage_versions import STAGE_VERSIONS
from tests.pipeline.finished_store import arguments, unpack


def test_nothing_is_made_again(tmp_path, capsys):
    folder = unpack(tmp_path)
    made = [json.loads(path.read_bytes()) for path in folder.glob("root/store/*/*/manifest.json")]
    assert {each["stage"] for each in made} == set(STAGE_VERSIONS)
    assert main(["plan", *arguments(folder)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^(\d+) in all: \1 cached, 0 to run$", out, re.MULTILINE), out
