"""What lies around a run and is not its own: proxies, and Prefect settings of other projects.

A `PREFECT_API_URL` of somebody else, a `prefect.toml` or `.env` in the current folder, or a profile
in the home folder would send the names of classes to another server. And a proxy, which every
hospital has, cannot reach the servers on this machine.
"""

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

from synth_pipeline.errors import InputError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_SCHEMES = ("", "http", "https", "socks5", "socks5h")


def bypass_proxies_here() -> None:
    """Let this process, and those it starts, reach this machine's own servers without a proxy."""
    # Where both are set, Python's own reading prefers the small letters.
    told = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in told.split(",") if host.strip()]
    hosts += [host for host in _LOOPBACK if host not in hosts]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(hosts)


def check_proxies() -> None:
    """Refuse a proxy that no client here can use, before one of them fails at it.

    Raises:
        InputError: naming the variable; its value may hold a password.
    """
    for name, value in os.environ.items():
        if name.lower() not in _PROXIES or not value:
            continue
        try:
            # Without a scheme, as curl takes it, it is an HTTP proxy.
            found = urlsplit(value if "://" in value else f"//{value}")
            usable = found.scheme in _SCHEMES and bool(found.hostname) and found.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise InputError(
                f"The environment variable {name} names no proxy that can be used; give "
                "http://HOST:PORT or socks5://HOST:PORT, or unset it."
            )


def forget_prefect_settings() -> None:
    """Take every Prefect setting of others out of this process's environment."""
    for name in [name for name in os.environ if name.upper().startswith("PREFECT_")]:
        del os.environ[name]


def import_prefect(home: Path) -> None:
    """Import Prefect in such a way that it reads its settings from the environment alone.

    It would also read `prefect.toml`, `pyproject.toml` and `.env` of the current folder, again and
    again, and profiles.

    Args:
        home: a folder of ours without such files.
    """
    with contextlib.chdir(home):
        from prefect.settings import base, sources

    # No setting says so, and pinning every value by a variable would leave those that are none.
    sources._read_toml_file = lambda path: {}
    kinds = [base.PrefectBaseSettings]
    while kinds:
        kind = kinds.pop()
        kind.model_config["env_file"] = None
        kinds += kind.__subclasses__()
