"""Reading stored JSON, whatever is stored."""

from __future__ import annotations

import json
from typing import Any


def json_object(stored: str | bytes | memoryview | None) -> dict[str, Any]:
    """The JSON object that a column holds; an empty one where it holds none.

    Unlike `synapse.storage._base.db_to_json`, which raises, and writes what it cannot read to
    the log.

    Args:
        stored: the column's value.
    """
    text = bytes(stored) if isinstance(stored, memoryview) else stored
    try:
        found = json.loads(text or "", parse_constant=_refuse)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse(constant: str) -> None:
    # NaN and the infinities, which Python reads and Synapse does not.
    raise ValueError(constant)
