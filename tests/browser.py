"""Headless Chromium that writes down whom its pages ask; only this machine is in its reach."""

import base64
import contextlib
import json
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_PATIENCE_S = 60.0
#: Chromium itself asks these, whatever is shown; pages are watched one by one, too.
_ITS_OWN = (".google.com", ".googleapis.com", ".gvt1.com", ".gstatic.com")


class _Refusing(socketserver.ThreadingTCPServer):
    """A proxy that notes which host is wanted, and lets nobody through."""

    daemon_threads = True
    hosts: list[str]


class _Refusal(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        words = self.rfile.readline().decode("latin-1").split()
        if len(words) == 3:
            target = words[1] if "://" in words[1] else f"//{words[1]}"
            self.server.hosts.append(urlsplit(target).hostname or target)  # type: ignore[attr-defined]
        self.wfile.write(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@dataclass
class Browser:
    """One tab, spoken to by the DevTools protocol.

    Attributes:
        proxy: through which everything goes but this machine's own addresses.
    """

    socket: ClientConnection
    proxy: _Refusing
    _asked: dict[str, str] = field(default_factory=dict)
    _number: int = 0
    _idle: set[str] = field(default_factory=set)

    def forget(self) -> None:
        """Begin the notes anew: another test looks at them."""
        self._asked.clear()
        self.proxy.hosts.clear()

    def open(self, address: str, until: str = "true") -> None:
        """Show a page, and wait until it asks for nothing more and an expression is true."""
        shown = self._ask("Page.navigate", url=address)["loaderId"]
        deadline_s = time.monotonic() + _PATIENCE_S
        while shown not in self._idle:
            self._hear(deadline_s)
        self.wait(until)

    def wait(self, until: str) -> None:
        """Wait until an expression is true in the page."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while not self.value(f"Boolean({until})"):
            assert time.monotonic() < deadline_s, (until, self.value("document.body?.innerText"))
            self.value("new Promise(done => setTimeout(done, 100))")

    def value(self, expression: str) -> Any:
        """What an expression is in the page; a promise is waited for."""
        told = self._ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def outside(self) -> set[str]:
        """Hosts that somebody wanted to reach beyond this machine, Chromium's own left out."""
        return {
            host
            for host in self.proxy.hosts
            if host.startswith("fonts.") or not host.endswith(_ITS_OWN)
        }

    def let_through(self) -> set[str]:
        """Hosts that the pages asked, where no policy forbade it; empty for files and data."""
        return {urlsplit(address).hostname or "" for address in self._asked.values()}

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self.socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            told = self._hear(deadline_s)
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]

    def _hear(self, deadline_s: float) -> dict[str, Any]:
        told = json.loads(self.socket.recv(timeout=deadline_s - time.monotonic()))
        more = told.get("params", {})
        match told.get("method"):
            case "Network.requestWillBeSent":
                self._asked[more["requestId"]] = more["request"]["url"]
            case "Network.webSocketCreated":
                self._asked[more["requestId"]] = more["url"]
            case "Network.loadingFailed" if more.get("blockedReason") == "csp":
                self._asked.pop(more["requestId"], None)
            case "Page.lifecycleEvent" if more["name"] == "networkIdle":
                self._idle.add(more["loaderId"])
        return told

    def log_in(self, secret: str) -> None:
        """Keep the dashboard's secret as its login page does, for all pages from now on."""
        kept = base64.b64encode(secret.encode()).decode()
        self._ask(
            "Page.addScriptToEvaluateOnNewDocument",
            source=f"localStorage.setItem('prefect-password', '{kept}')",
        )


@contextlib.contextmanager
def started_browser(place: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, which is gone afterwards."""
    assert CHROMIUM is not None
    with _Refusing(("127.0.0.1", 0), _Refusal) as proxy:
        proxy.hosts = []
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        port = proxy.server_address[1]
        process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
            + ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
            + ["--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={place}"]
            + [f"--proxy-server=127.0.0.1:{port}", "--remote-debugging-port=0", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with connect(_tab(place, process), proxy=None, max_size=None) as socket:
                made = Browser(socket, proxy)
                for domain in ("Network", "Page", "Runtime"):
                    made._ask(f"{domain}.enable")
                made._ask("Page.setLifecycleEventsEnabled", enabled=True)
                yield made
        finally:
            process.terminate()
            process.wait(30)
            proxy.shutdown()
            shutil.rmtree(place, ignore_errors=True)


def _tab(place: Path, process: subprocess.Popen[bytes]) -> str:
    """The address at which the browser's one tab is spoken to."""
    deadline_s = time.monotonic() + _PATIENCE_S
    told = place / "DevToolsActivePort"
    while True:
        assert process.poll() is None and time.monotonic() < deadline_s
        with contextlib.suppress(OSError, IndexError, httpx.HTTPError):
            port = told.read_text().split()[0]
            with httpx.Client(trust_env=False) as client:
                tabs = client.get(f"http://127.0.0.1:{port}/json/list").json()
            pages = [tab for tab in tabs if tab["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
