"""The Dockerfile: its steps can be read, and the context holds what it copies and no photo.

That the steps run was seen once, by hand, with deploy/try_dockerfile.py: six gigabytes.
"""

import pytest

from deploy.try_dockerfile import context_files, ignored, stages_of
from tests.command_line import ROOT


@pytest.fixture(scope="module")
def stages():
    return {stage.name: stage for stage in stages_of(ROOT / "Dockerfile")}


def test_stages_stand_on_each_other(stages):
    assert list(stages)[-1] == "study", "the last one is what is built by default"
    for stage in stages.values():
        assert stage.parent in stages or stage.parent.startswith("python:3.11-")
        for word, rest in stage.steps:
            if word == "COPY" and "--from=" in rest:
                assert rest.split("--from=")[1].split()[0] in stages


def test_what_is_copied_is_in_the_context(stages):
    known = context_files()
    for stage in stages.values():
        for word, rest in stage.steps:
            if word == "COPY" and "--from=" not in rest:
                for source in rest.split()[:-1]:
                    assert source == "." or any(
                        name == source or name.startswith(f"{source}/") for name in known
                    ), source


@pytest.mark.parametrize("name", ["server", "study"])
def test_nobody_is_root_and_health_is_asked(stages, name):
    words = dict(stages[name].steps)
    assert words["USER"] == "study"
    assert "HEALTHCHECK" in words


def test_versions_are_those_that_were_tested_together(stages):
    for stage in stages.values():
        for word, rest in stage.steps:
            if word == "RUN" and "pip install" in rest and "--no-deps" not in rest:
                assert "--constraint constraints.txt" in rest, rest


def test_no_photo_no_result_and_no_secret_reaches_an_image():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    for name in (
        ".env",
        ".git/config",
        "photos/jane.jpg",
        "results/store/cases/ab/images/x.png",
        "quickstart/prefect/prefect.db",
        "tests/conftest.py",
        "configs/.secret",
        "flows/__pycache__/cli.cpython-311.pyc",
    ):
        assert ignored(name, patterns), name
    for name in ("flows/cli.py", "synth_pipeline/templates/report.html", "constraints.txt"):
        assert not ignored(name, patterns), name
