"""Whatever is raised, and wherever: no text of an exception reaches Prefect."""

import importlib
import os
import pkgutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import prefect
import pytest

import flows
import tasks
from synth_pipeline.config import load_config
from synth_pipeline.errors import ClassFailedError, InputError
from synth_pipeline.study import Study
from tasks.untold import kept, sentence_of, told_as, untold
from tests.command_line import PATIENT, ROOT, STUDY


def every_module(package):
    for module in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{module.name}")


def every_task() -> list[prefect.Task]:
    found = {
        value.name: value
        for module in every_module(tasks)
        for value in vars(module).values()
        if isinstance(value, prefect.Task)
    }
    return list(found.values())


@pytest.fixture
def study_folder(tmp_path) -> Path:
    folder = tmp_path / "root" / "studies" / "small"
    folder.mkdir(parents=True, mode=0o700)
    (tmp_path / "cases.csv").write_text(f"file,class,split\na.png,noonan,{PATIENT}\n")
    (tmp_path / "a.png").touch()
    (folder / "config.resolved.yaml").write_text(STUDY.format(source=tmp_path))
    return folder


def test_every_task_and_flow_is_wrapped():
    found = every_task() + [
        value
        for name in ("study", "synthesize_class", "recognize", "ingest_cases")
        for value in vars(importlib.import_module(f"flows.{name}")).values()
        if isinstance(value, prefect.Flow)
    ]
    assert len(found) > 20
    code = untold(lambda root, name: None).__code__
    assert [each.name for each in found if each.fn.__code__ is not code] == []
    # No flow is anywhere else.
    places = {
        value.fn.__module__
        for module in every_module(flows)
        for value in vars(module).values()
        if isinstance(value, prefect.Flow)
    }
    assert places == {f"flows.{n}" for n in ("study", "synthesize_class", "recognize")} | {
        "flows.ingest_cases"
    }


def test_nothing_of_a_planted_name_is_in_prefect_s_folder(study_folder):
    """In a real Prefect every task and flow fails with every kind of exception, again and again."""
    root = study_folder.parent.parent
    clean = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.planted", str(root), PATIENT],
        cwd=ROOT,
        env={
            **clean,
            "PREFECT_HOME": str(root / "prefect"),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "synth_pipeline",
            "DO_NOT_TRACK": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log = study_folder / "errors.log"
    told, terminal = done.stdout.split("TERMINAL")
    # Only the terminal is told what is wrong with the photos.
    assert "cases.csv, line 2: the split" in terminal and "cases.csv" not in told
    assert PATIENT not in told
    assert "the whole message is in studies/small/errors.log under the root" in told
    assert "PermissionError (Permission denied) at tasks/running.py" in told

    searched = 0
    for path in (root / "prefect").rglob("*"):
        if path.is_file():
            searched += path.stat().st_size
            content = path.read_bytes()
            for part in (*PATIENT.split(), "ward"):
                assert part.encode() not in content, (path, part)
                assert part.encode("utf-16-le") not in content, (path, part)
    assert searched > 100_000
    with sqlite3.connect(root / "prefect" / "prefect.db") as database:
        lines = "\n".join(row[0] for row in database.execute("SELECT message FROM log"))
        states = database.execute("SELECT count(*) FROM task_run_state").fetchone()[0]
    # It was not the logs' absence that kept the name out.
    assert "Retries are exhausted" in lines and "errors.log" in lines
    assert states > 3 * len(every_task())

    assert log.stat().st_mode & 0o777 == 0o600
    assert log.read_text().count(PATIENT) > 50
    assert "Traceback (most recent call last)" in log.read_text()


def test_a_copy_keeps_kind_and_class_but_not_the_words():
    error = ClassFailedError("noonan", f"{PATIENT}.jpg is damaged.")
    public = told_as(error, "It failed.")
    assert type(public) is ClassFailedError and public.class_id == "noonan"
    assert str(public) == "It failed." and PATIENT not in repr(public)
    assert str(error) == f"{PATIENT}.jpg is damaged."


def test_the_terminal_is_told_all(study_folder):
    error = InputError(f"line 3: {PATIENT}.jpg does not exist.")
    state = kept(error, str(study_folder.parent.parent), "small")
    assert sentence_of(state) == str(error)
    assert PATIENT not in state.message + repr(state)


def test_the_terminal_names_the_private_file(study_folder, capsys):
    from flows.running import _tell_where

    def body(root: str, name: str) -> None:
        raise MemoryError(PATIENT)

    root = study_folder.parent.parent
    study = Study(load_config(study_folder / "config.resolved.yaml"), root)
    state = untold(body)(str(root), "small")
    _tell_where(study, [state.message])
    assert capsys.readouterr().err == f"synth-pipeline: whole messages: {study_folder}/errors.log\n"
    _tell_where(study, ["noonan: no photo of it can be used."])
    assert capsys.readouterr().err == ""


def test_a_private_file_that_cannot_be_written_is_said(tmp_path):
    def body(root: str, name: str) -> None:
        raise OSError(28, "No space left on device", PATIENT)

    state = untold(body)(str(tmp_path / "nowhere"), "small")
    assert "OSError (No space left on device)" in state.message
    assert "no private errors.log could be written" in state.message
    assert PATIENT not in repr(state)


def test_a_planted_link_is_not_followed(study_folder, tmp_path):
    (study_folder / "errors.log").symlink_to(tmp_path / "elsewhere")
    state = kept(InputError(PATIENT), str(study_folder.parent.parent), "small")
    assert not (tmp_path / "elsewhere").exists()
    assert "could be written" in state.message


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_signals_pass(signal):
    def body(root: str, name: str) -> None:
        raise signal

    with pytest.raises(signal):
        untold(body)("", "")
