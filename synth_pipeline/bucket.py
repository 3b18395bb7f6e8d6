"""An object store, spoken to through fsspec: the few operations that the remote store needs.

The credentials come from where AWS's own tools take them (environment, profile, role of the
machine), the address from `AWS_ENDPOINT_URL` if it is not AWS's; neither is ever written down here.
"""

import contextlib
import functools
import logging
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from synth_pipeline.errors import InputError, StoreUnreachableError
from synth_pipeline.shipped import INSTALL

#: A place, and nothing that could be a secret: no user, no query.
URL = re.compile(r"^s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[\w.=+-]+)*)/?$")

#: Transfers at a time; each holds up to 100 MB. Manifests hold some kilobytes.
_AT_ONCE, _SMALL_AT_ONCE = 16, 64


@dataclass(frozen=True)
class Listed:
    """An object as a listing tells of it."""

    size_bytes: int
    modified: datetime


class Bucket:
    """Objects under one prefix; names are relative to it.

    Args:
        url: such as `s3://bucket/prefix`.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._root = self.url.partition("://")[2]

    @functools.cached_property
    def _filesystem(self) -> Any:
        import fsspec

        # What is refused or fails again and again is told by us, in one sentence.
        logging.getLogger("aiobotocore").setLevel(logging.ERROR)
        try:
            return fsspec.filesystem(
                "s3",
                # Listings change under us: other machines write too.
                use_listings_cache=False,
                skip_instance_cache=True,
                config_kwargs={"connect_timeout": 10, "read_timeout": 60},
            )
        except ImportError:
            raise InputError(
                f"store {self.url}: the package s3fs is missing; {INSTALL} s3fs."
            ) from None

    def read(self, name: str) -> bytes | None:
        """An object's content; none if there is no such object."""
        with self._told():
            try:
                # More would ask for the size first.
                return self._filesystem.cat_file(self._path(name), max_concurrency=1)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of small objects, many at a time; without those that are gone."""
        if not names:
            return {}
        paths = {self._path(name): name for name in names}
        with self._told():
            found = self._filesystem.cat(
                list(paths), on_error="return", batch_size=_SMALL_AT_ONCE, max_concurrency=1
            )
            for error in found.values():
                if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
                    raise error
        return {paths[path]: read for path, read in found.items() if isinstance(read, bytes)}

    def create(self, name: str, content: bytes) -> bool:
        """Write an object that does not exist yet; false if it does. Of two writers one wins."""
        with self._told():
            try:
                self._filesystem.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                # Some servers leave out which condition failed; and AWS says so of two at once.
                if _code(error) in ("PreconditionFailed", "ConditionalRequestConflict"):
                    return False
                raise
        return True

    def write(self, name: str, content: bytes) -> None:
        """Write an object, or write over it."""
        with self._told():
            self._filesystem.pipe_file(self._path(name), content)

    def list(self, prefix: str) -> dict[str, Listed]:
        """All objects below a prefix, by name."""
        with self._told():
            found = self._filesystem.find(self._root, prefix=prefix, detail=True)
        skip = len(self._root) + 1
        return {
            path[skip:]: Listed(told["size"], told["LastModified"]) for path, told in found.items()
        }

    def upload(self, files: Mapping[str, Path]) -> None:
        """Write local files as objects, several at a time."""
        self._transfer("put", [(str(path), self._path(name)) for name, path in files.items()])

    def download(self, files: Mapping[str, Path]) -> None:
        """Write objects as local files, several at a time.

        Raises:
            FileNotFoundError: one of them is gone.
        """
        self._transfer("get", [(self._path(name), str(path)) for name, path in files.items()])

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects; those that are gone already are no error."""
        with self._told():
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._filesystem.rm_file(self._path(name))

    def check(self) -> None:
        """See that objects can be listed and written, and that of two writers one wins.

        Raises:
            InputError: no such bucket, no right to it, or a server that ignores `If-None-Match`.
            StoreUnreachableError: the network is down.
        """
        self.list("probe/")
        name = f"probe/{uuid.uuid4().hex}"
        first, second = self.create(name, b""), self.create(name, b"")
        self.remove([name])
        if (first, second) != (True, False):
            raise InputError(
                f"store {self.url}: the server ignores conditional writes (If-None-Match), so two "
                "machines could overwrite each other; choose one that knows them."
            )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _transfer(self, method: str, pairs: Sequence[tuple[str, str]]) -> None:
        if not pairs:
            return
        sources, targets = zip(*pairs, strict=True)
        with self._told():
            transfer = getattr(self._filesystem, method)
            transfer(list(sources), list(targets), batch_size=_AT_ONCE)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever the network or the server says becomes one sentence of ours."""
        try:
            yield
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise InputError(
                    f"store {self.url}: there is no such bucket; make it, private, first."
                ) from None
            raise
        except PermissionError as error:
            if not _code(error):
                raise  # a folder of ours
            raise InputError(
                f"store {self.url}: the server refuses these credentials ({_code(error)}); they "
                "must list, read, write and delete objects there."
            ) from None
        except Exception as error:
            name = type(error).__name__
            if name in _NO_CREDENTIALS:
                raise InputError(
                    f"store {self.url}: no usable AWS credentials were found ({name}); set "
                    "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
                ) from None
            if _is_the_network(error):
                raise StoreUnreachableError(
                    f"The store {self.url} cannot be reached ({_code(error) or name}); run the "
                    "same command again later: what was finished is kept."
                ) from None
            raise


_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
)


def _code(error: BaseException) -> str:
    """S3's own code of an error, if the server gave one."""
    for link in (error, error.__cause__):
        reply = getattr(link, "response", None)
        if isinstance(reply, dict):
            return str(reply.get("Error", {}).get("Code", ""))
    return ""


def _is_the_network(error: Exception) -> bool:
    # Told by where it was defined: botocore and aiohttp are there only with the extra.
    return type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp") or (
        # A full disk is ours, and told elsewhere; what S3 said carries its reply.
        isinstance(error, TimeoutError | ConnectionError) or bool(_code(error))
    )
