"""JSON files of ours, as somebody may have left them: whatever is wrong is a `ValueError`."""

import json
from typing import Any


def parse_object(content: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: it is no JSON, not UTF-8, nested too deep for Python, or no object.
    """
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found
