"""The events that an event's JSON refers to, whatever another server has written there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard


def is_id(value: object) -> TypeGuard[str]:
    """Whether a database can be asked for an event by this: none takes NUL or lone surrogates."""
    return (
        isinstance(value, str)
        and "\0" not in value
        and not any("\ud800" <= character <= "\udfff" for character in value)
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
