"""One server for all tests, and nothing left of it."""

from collections.abc import Iterator

import pytest

from tests.engine.stack import Stack, marked


@pytest.fixture(scope="session")
def stack(tmp_path_factory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    try:
        stack.start_server()
        stack.furnish()
        yield stack
    finally:
        stack.stop_workers()
        stack.stop_server()
    assert not marked(f"PREFECT_API_URL={stack.api.url}")
