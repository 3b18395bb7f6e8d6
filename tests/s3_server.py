"""A server that speaks S3, on this machine: moto's, with a door for what tests do to it.

One request at a time: moto looks for an object and writes it in two steps, where S3 promises one.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import boto3
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

#: What the client's environment holds; no other key is let in.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    # Nothing of the machine's own.
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}

# Each request would be a line of the failed test.
logging.getLogger("werkzeug").setLevel(logging.ERROR)

_REFUSED = (
    b'<?xml version="1.0"?><Error><Code>InvalidAccessKeyId</Code>'
    b"<Message>The AWS Access Key Id you provided does not exist in our records.</Message></Error>"
)


class S3Server:
    """A bucket `faces`, what was asked of the server, and a hand that kills at a request."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.ignores_conditions = False
        self._before: Callable[[str, str], None] = lambda method, path: None
        self._server = make_server(
            "127.0.0.1",
            0,
            self._answer,
            threaded=False,
            request_handler=MotoRequestHandler,
        )
        self._app = DomainDispatcherApplication(create_backend_app)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.address}
        self.client = boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket="faces")

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def names(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket="faces", Prefix=prefix).get("Contents", [])
        return [each["Key"] for each in found]

    def read(self, name: str) -> bytes:
        return self.client.get_object(Bucket="faces", Key=name)["Body"].read()

    def write(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket="faces", Key=name, Body=content)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket="faces", Key=name)

    @contextmanager
    def kill(self, process_id: Callable[[], int], at_put: int) -> Iterator[None]:
        """SIGKILL a client when it asks to write its n-th object, which is not written."""
        puts = 0

        def before(method: str, path: str) -> None:
            nonlocal puts
            puts += method == "PUT"
            if method == "PUT" and puts == at_put:
                os.kill(process_id(), signal.SIGKILL)
                raise ConnectionAbortedError

        self._before = before
        try:
            yield
        finally:
            self._before = lambda method, path: None

    def _answer(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked.append((method, path))
        self._before(method, path)
        if ENVIRONMENT["AWS_ACCESS_KEY_ID"] not in environ.get("HTTP_AUTHORIZATION", ""):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            size = ("Content-Length", str(len(_REFUSED)))
            start_response("403 Forbidden", [("Content-Type", "application/xml"), size])
            return [_REFUSED]
        if self.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        return self._app(environ, start_response)
