"""The server of `engine: inline` is the run's own: nobody else reads of it or tells it anything."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows import own_server, up

ELSEWHERE = "http://page.example"


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Iterator[own_server.OwnServer]:
    with pytest.MonkeyPatch.context() as patched:
        # What `prepare` sets is for a process of its own.
        patched.setattr(os, "environ", os.environ.copy())
        with own_server.OwnServer(tmp_path_factory.mktemp("root")) as found:
            found.ready()
            yield found


def ask(own, method: str, path: str, **more) -> httpx.Response:
    content = {} if method == "POST" else None
    return httpx.request(method, own.server.url + path, json=content, trust_env=False, **more)


ANSWERS = [
    ("POST", "/flow_runs/filter"),
    ("POST", "/task_runs/filter"),
    ("POST", "/logs/filter"),
    ("POST", "/flow_runs/00000000-0000-0000-0000-000000000000/set_state"),
    ("GET", "/csrf-token?client=x"),
    ("GET", "/admin/settings"),
]


@pytest.mark.parametrize(("method", "path"), ANSWERS)
def test_nobody_without_the_secret_is_answered(own, method, path):
    assert ask(own, method, path).status_code in (401, 403)
    assert ask(own, method, path, auth=("synth", "wrong")).status_code in (401, 403)


def test_a_change_needs_a_token_beside_the_secret(own):
    login = tuple(own.server.secret.split(":", 1))
    assert "CSRF" in ask(own, "POST", "/flow_runs/filter", auth=login).text


@pytest.mark.parametrize("host", ["page.example", "page.example:4200", "127.0.0.1.page.example"])
def test_a_name_that_was_made_to_point_here_is_refused(own, host):
    """DNS rebinding: the browser takes this server for the page's own, and sends its name."""
    assert ask(own, "GET", "/health", headers={"Host": host}).status_code == 400
    port = httpx.URL(own.server.url).port
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}/api/events/in", additional_headers={"Host": host})
    assert refused.value.response.status_code in (400, 403)


def test_no_page_elsewhere_may_read_an_answer(own):
    login = tuple(own.server.secret.split(":", 1))
    for headers in ({"Origin": ELSEWHERE}, {"Origin": "null"}):
        reply = ask(own, "GET", "/flows/count", headers=headers, auth=login)
        assert "access-control-allow-origin" not in reply.headers
    asked = {"Origin": ELSEWHERE, "Access-Control-Request-Method": "POST"}
    assert ask(own, "OPTIONS", "/flow_runs/filter", headers=asked).status_code == 400


def test_the_secret_stands_on_no_command_line(own):
    secret = own.server.secret.split(":", 1)[1]
    assert secret not in Path(f"/proc/{own._process.pid}/cmdline").read_text()


def test_one_that_was_killed_is_started_again_at_its_place(own):
    own._process.kill()
    own._process.wait()
    own.revive()
    own.ready()
    assert json.loads(ask(own, "GET", "/health").text) is True


@pytest.mark.parametrize("kept", [b"", b"\n", b"user:", b"no colon", b"\xff\xfe:x"])
def test_a_file_that_holds_no_secret_does_not_open_the_server(tmp_path, kept):
    file = tmp_path / "prefect" / "secret"
    file.parent.mkdir()
    file.write_bytes(kept)
    secret = up._secret(tmp_path)
    assert len(secret.partition(":")[2]) > 20
    assert up._secret(tmp_path) == secret
