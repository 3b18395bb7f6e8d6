"""Settings for Prefect and the hub libraries, set before either is imported.

Everything of a study stays under its root: Prefect's database too, in a folder of mode 700. Nothing
phones home. Prefect's own settings of the user count only where `PREFECT_API_URL` names the server
that is used; everywhere else they are somebody else's (flows/surroundings.py).
"""

import os
from pathlib import Path
from urllib.parse import quote

from flows.server import Server
from flows.surroundings import forget_prefect_settings

_NEEDLESS = (
    "SCHEDULER",
    "LATE_RUNS",
    "FOREMAN",
    "CANCELLATION_CLEANUP",
    "PAUSE_EXPIRATIONS",
    "TRIGGERS",
    "CLEANUP_RECONCILER",
)


def prepare(root: Path, server: Server | None = None, *, own: bool = False) -> None:
    """Set the process's environment for a study under `root`.

    Must run before `prefect`, `huggingface_hub`, `transformers` or `diffusers` is imported.

    Args:
        root: of the study.
        server: the one to use; none where nothing is told to Prefect.
        own: it serves this run alone, and ends with it.
    """
    home = root / "prefect"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if server is None or not server.named:
        forget_prefect_settings()
    os.environ.update(
        # Usage statistics and update checks, one switch for each library that has one.
        DO_NOT_TRACK="1",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        HF_HUB_DISABLE_TELEMETRY="1",
        NO_ALBUMENTATIONS_UPDATE="1",
        # Should Prefect ever be told to persist a result: JSON, in the private folder.
        PREFECT_RESULTS_DEFAULT_SERIALIZER="json",
        PREFECT_RESULTS_LOCAL_STORAGE_PATH=str(home / "results"),
        PREFECT_RESULTS_PERSIST_BY_DEFAULT="false",
    )
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        # Our own lines reach the run's page; the terminal gets them from us, once.
        "PREFECT_LOGGING_EXTRA_LOGGERS": "synth_pipeline",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # Where the server is away, its client's threads tell of each event that they cannot send.
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        # One write for many states. One for each, as by default, locks SQLite against the flow: the
        # server answers 503, and the client waits two seconds, five to eight times in a short run.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    }
    if server:
        os.environ["PREFECT_API_URL"] = server.url
        if server.secret:
            os.environ["PREFECT_API_AUTH_STRING"] = server.secret
        # One that is started again is waited for, some eight minutes.
        defaults["PREFECT_CLIENT_MAX_RETRIES"] = "8"
    if own:
        # It schedules nothing, and has no workers to look after. So these services are off.
        defaults |= {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NEEDLESS}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if not any("_DATABASE_" in name for name in os.environ if name.startswith("PREFECT_")):
        url = _database_url(Path(os.environ["PREFECT_HOME"]))
        os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url


def _database_url(home: Path) -> str:
    """The address of Prefect's database, whatever characters its folder's path has.

    Prefect puts the path into the address as it is, so that of `/root?x` only `/root` is left, and
    the database lies beside the folder, for everybody to read.
    """
    path = quote(os.fsencode(home.absolute() / "prefect.db"))
    return f"sqlite+aiosqlite:///file:{path}?uri=true"
