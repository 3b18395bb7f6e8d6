"""What was registered is announced at least once: a server that is away forgets nothing."""

from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.announce_cases import announce_cases
from tests.command_line import STUDY


def test_cases_wait_for_a_server_that_is_away(desk):
    folder = desk.root / "studies" / "small"
    folder.mkdir(parents=True)
    text = STUDY.format(source="''").replace("format: csv", "format: registry")
    (folder / "config.resolved.yaml").write_text(text)
    desk.drop("a/one.png")
    desk.ingest()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        state = announce_cases.fn(str(desk.root), "small")
    assert state.is_failed() and state.message.startswith("ConnectError at tasks/announce_cases.py")
    assert len(desk.registry.unannounced()) == 1
