"""A registry and a quarantine that cannot be written: one sentence each."""

import resource

import pytest

from synth_pipeline.atomic import write_in_one_step
from synth_pipeline.errors import DiskError, InputError
from synth_pipeline.quarantine import Quarantine
from synth_pipeline.registry import Registry


@pytest.mark.parametrize("keep", [Registry, Quarantine])
def test_a_place_that_cannot_be_written(keep, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to("nothing")
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="cannot be written"), keep(place).locked():
            pass
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limit[1]))
    try:
        with pytest.raises(DiskError, match="ulimit"), keep(tmp_path / "new").locked():
            write_in_one_step(tmp_path / "new" / "file", b"longer content")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
