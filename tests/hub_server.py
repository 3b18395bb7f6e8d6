"""A model hub on this machine: as much of its interface as downloads use."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789" * 4


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories of one commit; each request is noted.

    Attributes:
        repositories: name to folder.
        broken: the status that every request is answered with instead; none answers well.
        asked: method and path of each request.
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.broken: int | None = None
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if self.server.broken:
            self._answer(b"", status=self.server.broken)
            return
        for name, folder in self.server.repositories.items():
            if path.startswith(f"/api/models/{name}"):
                self._describe(folder, name, path.removeprefix(f"/api/models/{name}"))
                return
            if path.startswith(f"/{name}/resolve/"):
                file = folder / path.removeprefix(f"/{name}/resolve/").partition("/")[2]
                if not file.is_file():
                    self._answer(b"", status=404, **{"X-Error-Code": "EntryNotFound"})
                    return
                content = file.read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                self._answer(content, ETag=f'"{etag}"', **{"X-Repo-Commit": COMMIT})
                return
        self._answer(b"", status=404, **{"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _describe(self, folder: Path, name: str, rest: str) -> None:
        if rest.startswith("/tree/"):
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            found: object = [
                {
                    "type": "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                }
                for path in files
            ]
        elif rest in ("", "/revision/main", f"/revision/{COMMIT}"):
            found = {"id": name, "modelId": name, "sha": COMMIT, "siblings": [], "tags": []}
        else:
            self._answer(b"", status=404, **{"X-Error-Code": "RevisionNotFound"})
            return
        self._answer(json.dumps(found).encode(), **{"Content-Type": "application/json"})

    def _answer(self, content: bytes, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def hub_of(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Serve repositories until the block ends."""
    hub = Hub(repositories)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
