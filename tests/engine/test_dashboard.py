"""The dashboard in a browser: it works, and asks nobody but its own server."""

from collections.abc import Iterator

import httpx
import pytest

from flows.guarded_server import policy
from flows.server import Server
from flows.up import _server_child

OUTSIDE = "outside.example"
#: Every way in which a page can ask an address; each resolves to how it ended.
WAYS = {
    "fetch": f"fetch('https://{OUTSIDE}/a').then(() => 'went', () => 'refused')",
    "script": f"import('https://{OUTSIDE}/a.js').then(() => 'went', () => 'refused')",
    "image": f"""new Promise(done => {{ const it = new Image();
        it.onload = () => done('went'); it.onerror = () => done('refused');
        it.src = 'https://{OUTSIDE}/a.png'; }})""",
    "socket": f"""new Promise(done => {{ const it = new WebSocket('wss://{OUTSIDE}/');
        it.onopen = () => done('went'); it.onerror = () => done('refused'); }})""",
    "style": f"""new Promise(done => {{ const it = document.createElement('link');
        it.rel = 'stylesheet'; it.href = 'https://{OUTSIDE}/a.css';
        it.onload = () => done('went'); it.onerror = () => done('refused');
        document.head.append(it); }})""",
}


@pytest.fixture
def dashboard(stack) -> str:
    return stack.api.url.removesuffix("/api")


@pytest.fixture
def a_run(stack) -> Iterator[str]:
    """The name of a flow run that the server knows, until the test ends: others use it, too."""
    login = tuple(stack.secret.split(":"))
    with httpx.Client(base_url=stack.api.url, auth=login, trust_env=False) as client:
        token = client.get("/csrf-token", params={"client": "test"}).json()["token"]
        client.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "test"})
        flow = client.post("/flows/", json={"name": "shown"}).json()["id"]
        run = client.post("/flow_runs/", json={"flow_id": flow, "name": "shown-run"}).json()
        yield run["name"]
        client.delete(f"/flow_runs/{run['id']}").raise_for_status()


def test_no_page_asks_another_address(stack, browser, dashboard, a_run):
    """The login page first, then pages of both dashboards and of the API's reference."""
    browser.open(f"{dashboard}/", "document.body?.innerText.includes('Login')")
    assert "/login" in browser.value("location.pathname")
    browser.log_in(stack.secret)
    browser.open(f"{dashboard}/v2/runs", f"document.body?.innerText.includes('{a_run}')")
    # The older dashboard counts first what it lists later.
    browser.open(f"{dashboard}/runs", "/\\b[1-9]\\d* runs?\\b/.test(document.body?.innerText)")
    for page in ("docs", "redoc"):
        browser.open(f"{dashboard}/{page}")
    assert browser.let_through() <= {"127.0.0.1", ""}
    assert browser.outside() == set()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_forbidden_stays_in_the_browser(browser, dashboard, way):
    browser.open(f"{dashboard}/v2/login")
    assert browser.value(WAYS[way]) == "refused"
    assert OUTSIDE not in browser.outside()


def test_the_watch_hears_who_may_speak(browser):
    """Without a policy the same request leaves the browser: what the others show is no deafness."""
    browser.open("about:blank")
    assert browser.value("fetch('http://heard.example/').then(r => r.status, () => 0)") in (0, 502)
    assert "heard.example" in browser.outside()
    browser.proxy.hosts.clear()


def test_every_reply_carries_the_policy(stack, dashboard):
    for path in ("/", "/v2/", "/runs", "/api/health", "/api/flows/filter", "/ui-settings", "/no"):
        reply = httpx.get(dashboard + path, trust_env=False)
        told = reply.headers["content-security-policy"]
        assert "default-src 'self'" in told and "*" not in told, path
        assert reply.headers["x-dns-prefetch-control"] == "off"


def test_an_api_elsewhere_may_be_asked_and_nobody_else():
    told = dict(part.split(" ", 1) for part in policy("https://team.example/api").split("; "))
    assert told["connect-src"] == "'self' https://team.example wss://team.example"
    assert "example" not in told["script-src"] + told["img-src"] + told["default-src"]


def test_up_starts_this_very_server():
    child = _server_child(Server("http://127.0.0.1:4321/api", "a:b"))
    assert child.arguments[0] == "flows.guarded_server"
    assert "4321" in child.arguments
