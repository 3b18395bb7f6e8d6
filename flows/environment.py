"""Settings for Prefect and the hub libraries, set before either is imported.

Everything of a study stays under its root: Prefect's database too, in a folder of mode 700. Nothing
phones home. A value that the user has set in the environment wins, but for the private ones.
"""

import os
from pathlib import Path


def prepare(root: Path) -> None:
    """Set the process's environment for a study under `root`.

    Must run before `prefect`, `huggingface_hub`, `transformers` or `diffusers` is imported.
    """
    home = root / "prefect"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        # Our own lines reach the run's page; the terminal gets them from us, once.
        "PREFECT_LOGGING_EXTRA_LOGGERS": "synth_pipeline",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # A first start creates the database, which takes a while on a busy machine.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
