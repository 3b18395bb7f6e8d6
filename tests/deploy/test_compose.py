"""compose.yaml: it fits the specification's schema, and keeps what it promises."""

import json
import os
import re
import subprocess
import sys
from importlib.resources import files

import jsonschema
import pytest
import yaml

from tests.command_line import ROOT

SECRETS = {
    "POSTGRES_PASSWORD": "database-secret",
    "REDIS_PASSWORD": "redis-secret",
    "PREFECT_AUTH": "admin:auth-secret",
    "PHOTOS": "/photos",
}


def interpolated(text: str) -> str:
    """`${NAME}`, `${NAME:-default}` and `${NAME:?message}` as compose reads them."""

    def value(match: re.Match[str]) -> str:
        return SECRETS.get(match["name"], match["default"] or "")

    found = re.sub(r"(?<!\$)\$\{(?P<name>\w+)(:-(?P<default>[^}]*)|:\?[^}]*)?\}", value, text)
    return found.replace("$$", "$")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(interpolated((ROOT / "compose.yaml").read_text()))


def test_it_fits_the_compose_specification(compose):
    place = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose, json.loads(place.read_text()))
    broken = {**compose, "services": {**compose["services"], "redis": {"imagee": "redis"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, json.loads(place.read_text()))


def test_what_is_named_is_there(compose):
    networks, volumes = set(compose["networks"]), set(compose["volumes"])
    for name, service in compose["services"].items():
        assert set(service["networks"]) <= networks, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in volumes or source.startswith("/"), (name, volume)
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name


def test_only_one_port_and_only_on_the_loopback_interface(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:4200:4200"]
    for name in ("postgres", "redis"):
        assert compose["services"][name]["networks"] == ["data"]
    assert compose["networks"]["data"] == {"internal": True}


def test_no_secret_is_in_the_file():
    text = (ROOT / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.match(r"\s*\w*(PASSWORD|AUTH|URL)\w*:", line) and "http://" not in line:
            assert "${" in line, line
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_secrets_are_made_for_the_owner_only(tmp_path):
    (tmp_path / "deploy").mkdir()
    script = tmp_path / "deploy" / "make-secrets.sh"
    script.write_text((ROOT / "deploy" / "make-secrets.sh").read_text())
    subprocess.run(["sh", str(script)], check=True)
    made = tmp_path / ".env"
    assert made.stat().st_mode & 0o777 == 0o600
    values = dict(line.split("=") for line in made.read_text().splitlines() if "=" in line)
    needed = re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text())
    assert set(needed) <= set(values)
    random = [values[name] for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "PREFECT_AUTH")]
    assert len({value[-48:] for value in random}) == 3
    assert subprocess.run(["sh", str(script)], check=False, capture_output=True).returncode == 2


def test_a_proxy_of_the_machine_stands_between_no_two_containers(compose):
    asked = {"server", "postgres", "redis", "127.0.0.1"}
    for name, service in compose["services"].items():
        if name not in ("postgres", "redis"):
            for variable in ("NO_PROXY", "no_proxy"):
                assert asked <= set(service["environment"][variable].split(",")), name


#: Asks Prefect itself what it makes of the environment: a name with a slip of the pen does nothing.
ASK = """
import json
from prefect.settings import get_current_settings
server = get_current_settings().server
print(json.dumps({
    "database": server.database.connection_url.get_secret_value(),
    "migrate": server.database.migrate_on_start,
    "broker": server.events.messaging_broker,
    "cache": server.events.messaging_cache,
    "ordering": server.events.causal_ordering,
    "leases": server.concurrency.lease_storage,
    "docket": server.docket.url,
    "secret": server.api.auth_string.get_secret_value(),
    "csrf": server.api.csrf_protection_enabled,
    "origins": server.api.cors_allowed_origins,
    "dashboard": server.ui.api_url,
    "analytics": server.analytics_enabled,
}))
"""


@pytest.mark.parametrize("service", ["server", "services", "migrate"])
def test_prefect_understands_the_server_s_environment(compose, service, tmp_path):
    environment = compose["services"][service]["environment"]
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env={"PATH": os.environ["PATH"], **environment, "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "database": "postgresql+asyncpg://prefect:database-secret@postgres:5432/prefect",
        "migrate": False,
        "broker": "prefect_redis.messaging",
        "cache": "prefect_redis.messaging",
        "ordering": "prefect_redis.ordering",
        "leases": "prefect_redis.lease_storage",
        "docket": "redis://default:redis-secret@redis:6379/1",
        "secret": "admin:auth-secret",
        "csrf": True,
        "origins": "http://127.0.0.1:4200",
        "dashboard": "http://127.0.0.1:4200/api",
        "analytics": False,
    }


def test_only_the_gpu_worker_has_a_gpu_and_nobody_has_rights(compose):
    with_gpu = [name for name, service in compose["services"].items() if "deploy" in service]
    assert with_gpu == ["worker-gpu-0"]
    for name in ("server", "services", "migrate", "furnish", "worker-cpu", "worker-gpu-0", "study"):
        service = compose["services"][name]
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
