"""The events that an event's JSON refers to, whatever another server has written there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def is_id(value: object) -> TypeGuard[str]:
    """Whether a database can be asked for an event by this: none takes NUL or lone surrogates."""
    return (
        isinstance(value, str)
        and "\0" not in value
        # Every id of every event is looked at, and nearly all of them are ASCII.
        and (value.isascii() or _LONE_SURROGATE.search(value) is None)
    )


def references(event: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """The event ids that an event's JSON refers to, but for what is no event's id.

    In room versions 1 and 2 a reference is a pair of id and hashes (server-server API,
    "PDUs", room version 1), later it is the id.

    Args:
        event: the event's JSON.
        field: `prev_events` or `auth_events`.
    """
    found = event.get(field)
    if not isinstance(found, list):
        return ()
    ids = (r[0] if isinstance(r, list) and r else r for r in found)
    return tuple(i for i in ids if is_id(i))
