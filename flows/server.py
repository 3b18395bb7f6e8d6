"""Which Prefect server a study's runs go to, how it is reached, and whether it is ready for them.

`synth-pipeline up` leaves its address and secret in a file of mode 600 under the root; an address
in the environment (`PREFECT_API_URL`, `PREFECT_API_AUTH_STRING`) wins. Prefect is not imported
here: all of this is known before a study is laid down.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from synth_pipeline import __version__
from synth_pipeline.errors import InputError
from synth_pipeline.json_files import parse_object
from synth_pipeline.shipped import DEPLOY

GPU_POOL, CPU_POOL = "gpu", "cpu"
SYNTHESIZE, RECOGNIZE, STUDY = "synthesize-class/gpu", "recognize/gpu", "study/production"
#: The automation of deploy/automations.yaml.
ZOMBIES = "crash zombie flows"
_FILE = "server.json"


@dataclass(frozen=True)
class Server:
    """A Prefect server.

    Attributes:
        url: of its API, such as "http://127.0.0.1:4200/api".
        secret: "user:password" of basic authentication; none where there is none.
        named: by the user, with `PREFECT_API_URL`; others are of this package's making.
    """

    url: str
    secret: str | None
    named: bool = False

    def get(self, path: str) -> Any:
        """Read something by its path under the API; none if it is not there.

        Raises:
            InputError: there is no such server, or the secret is wrong.
        """
        return self._ask("GET", path, None)

    def find(self, what: str, wanted: dict[str, Any] | None = None) -> list[Any]:
        """Read what a filter finds, such as `find("automations")`."""
        return self._ask("POST", f"/{what}/filter", wanted or {}) or []

    def _ask(self, method: str, path: str, content: Any) -> Any:
        user, _, password = (self.secret or "").partition(":")
        login = (user, password) if self.secret else None
        try:
            with httpx.Client(auth=login, timeout=30) as client:
                headers = {}
                if method == "POST":
                    # Where the server wants no token (422), none is needed.
                    told = client.get(f"{self.url}/csrf-token", params={"client": "synth-pipeline"})
                    if told.status_code == 200:
                        headers = {
                            "Prefect-Csrf-Token": parse_object(told.content)["token"],
                            "Prefect-Csrf-Client": "synth-pipeline",
                        }
                reply = client.request(method, self.url + path, json=content, headers=headers)
        except (ValueError, KeyError):
            raise self._no_prefect("it gives no token") from None
        except httpx.HTTPError:
            raise InputError(
                f"No Prefect server answers at {self.url}; start one with `synth-pipeline up`, or "
                "set PREFECT_API_URL."
            ) from None
        except httpx.InvalidURL:
            raise InputError(f"PREFECT_API_URL={self.url} is not an address; mend it.") from None
        if reply.status_code in (401, 403):
            raise InputError(
                f"The Prefect server at {self.url} refuses the secret; set PREFECT_API_AUTH_STRING "
                "to the user:password that the server was started with."
            )
        if reply.status_code == 404:
            return None
        if reply.status_code != 200:
            raise self._no_prefect(f"status {reply.status_code}")
        try:
            return reply.json()
        except ValueError:
            raise self._no_prefect("its answer is not JSON") from None

    def _no_prefect(self, why: str) -> InputError:
        return InputError(
            f"What answers at {self.url} is no Prefect server ({why}); "
            "set PREFECT_API_URL to one, with /api at its end."
        )


def server_file(root: Path) -> Path:
    """Where `up` leaves the server's address and secret."""
    return root / "prefect" / _FILE


def find_server(root: Path) -> Server | None:
    """The server of the environment, or else the one that runs under this root; or none.

    Raises:
        InputError: the file that `up` left is damaged.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        secret = os.environ.get("PREFECT_API_AUTH_STRING") or None
        return Server(url.rstrip("/"), secret, named=True)
    path = server_file(root)
    try:
        told = parse_object(path.read_bytes())
        url, secret = told["url"], told["secret"]
        if not isinstance(url, str) or not isinstance(secret, str | None):
            raise ValueError
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError):
        raise InputError(
            f"{path} is damaged; stop `synth-pipeline up` for this root, and start it again."
        ) from None
    return Server(url, secret)


def ready_server(root: Path) -> Server:
    """The server to which a study's classes can be given, as far as one can tell without trying.

    Raises:
        InputError: there is no server, it refuses us, or something on it is missing or of another
            version of this package; with the command that mends it.
    """
    server = find_server(root)
    if server is None:
        raise InputError(
            f"engine: workers needs a Prefect server; start one with `synth-pipeline up --root "
            f"{shlex.quote(str(root))}`, or set PREFECT_API_URL."
        )
    if server.get(f"/work_pools/{GPU_POOL}") is None:
        raise InputError(
            f"The server at {server.url} has no work pool {GPU_POOL}; create it with "
            f"`prefect work-pool create {GPU_POOL} --type process`."
        )
    for name in (SYNTHESIZE, RECOGNIZE):
        deployment = server.get(f"/deployments/name/{name}")
        if deployment is None:
            raise InputError(
                f"The server at {server.url} has no deployment {name}; create it with `{DEPLOY}`."
            )
        check_version(name, deployment["version"])
    return server


def check_version(name: str, version: str | None) -> None:
    """Refuse a deployment that was made by another version of this package.

    Raises:
        InputError: with the command that mends it.
    """
    if version != __version__:
        raise InputError(
            f"The deployment {name} is of version {version}, but {__version__} is installed here; "
            f"install the same version everywhere, then run `{DEPLOY}`."
        )
