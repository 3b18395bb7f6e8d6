"""Prefect's server, whose pages ask nothing of any other address, and which no other page asks.

Prefect's new dashboard asks an analytics company's address on every page, the login page too, even
with `PREFECT_SERVER_ANALYTICS_ENABLED=false`; no setting switches that off. The pages of the API's
reference load scripts from outside. So every reply carries a Content-Security-Policy, by which the
visitor's browser forbids it (docs/decisions/0021).

A web page elsewhere can have its own name point to this machine (DNS rebinding): its browser then
takes the server for the page's own. So a server on the loopback interface answers only requests
that name that interface as their host (docs/decisions/0020).

    python -m flows.guarded_server --host 127.0.0.1 --port 4200

This file also runs alone, where this package is not installed: it needs Prefect and nothing else.
"""

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

#: How the loopback interface is called in a request.
LOOPBACK = ("127.0.0.1", "localhost")

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]


def policy(api_url: str | None) -> str:
    """The Content-Security-Policy of every reply.

    Args:
        api_url: where the dashboard finds the API, if that is not where the page comes from.
    """
    found = urlsplit(api_url or "")
    places = ["'self'"]
    if found.netloc:
        # Events arrive through a web socket.
        schemes = (found.scheme, found.scheme.replace("http", "ws", 1))
        places += [f"{scheme}://{found.netloc}" for scheme in schemes]
    return "; ".join(
        (
            "default-src 'self'",
            f"connect-src {' '.join(places)}",
            # The picture of a run compiles its own functions; styles are set element by element.
            "script-src 'self' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


def guarded(app: App, api_url: str | None) -> App:
    """Wrap an ASGI application so that its pages reach nobody else."""
    headers = [
        (b"content-security-policy", policy(api_url).encode()),
        # Browsers look up the hosts of a page's links before anybody clicks one.
        (b"x-dns-prefetch-control", b"off"),
        (b"referrer-policy", b"no-referrer"),
    ]

    async def guard(scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await app(scope, receive, send_guarded if scope["type"] == "http" else send)

    return guard


def main() -> None:
    """Serve until SIGINT or SIGTERM, with Prefect's own settings of the environment."""
    parser = argparse.ArgumentParser(description="Prefect's server, with a guard before its pages.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--fd", type=int, help="a socket that listens already, on 127.0.0.1")
    parser.add_argument(
        "--no-services", action="store_true", help="the scheduler and others run elsewhere"
    )
    options = parser.parse_args()

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    settings = get_current_settings().server
    app = create_app(final=True, webserver_only=options.no_services)
    if options.fd is not None or options.host in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
    uvicorn.run(
        guarded(app, settings.ui.api_url),
        host=options.host,
        port=options.port,
        fd=options.fd,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
        # A dashboard that is open in a browser never closes its connection by itself.
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
