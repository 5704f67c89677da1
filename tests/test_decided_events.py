"""What is remembered of the events that others cite."""

from __future__ import annotations

import asyncio
from typing import Any

from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import EventBase, make_event_from_dict

from synapse_rejection_repair.adapter.decided_events import DecidedEvents

_VERSION = KNOWN_ROOM_VERSIONS["11"]


class Empty:
    """A database without an event; counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def rows_of(self, desc: str, sql: str, ids: list[str], column: str) -> list[Any]:
        self.asked += ids
        return []


def members(number: int) -> list[EventBase]:
    return [
        make_event_from_dict(
            {
                "type": "m.room.member",
                "room_id": "!r",
                "sender": f"@u{n}:s",
                "state_key": f"@u{n}:s",
                "content": {"membership": "join"},
                "prev_events": [],
                "auth_events": [],
                "depth": n,
                "origin_server_ts": n,
                "hashes": {},
                "signatures": {},
            },
            _VERSION,
        )
        for n in range(number)
    ]


def test_what_is_not_stored_yet_is_never_forgotten() -> None:
    """However many others are cited meanwhile; once it is stored, it is one of many."""
    database: Any = Empty()
    known = DecidedEvents(database, _VERSION)
    first, *others = members(6000)

    def read(event_id: str) -> dict[str, EventBase]:
        return asyncio.run(known.read([event_id]))

    known.pin(first)
    for event in others[:3000]:
        known.remember(event)
    assert read(others[2999].event_id) == {others[2999].event_id: others[2999]}
    assert read(first.event_id) == {first.event_id: first}
    assert database.asked == []
    # The first of the others were one too many.
    assert read(others[0].event_id) == {}
    assert database.asked == [others[0].event_id]

    known.unpin()
    assert read(first.event_id) == {first.event_id: first}
    for event in others[3000:]:
        known.remember(event)
    assert asyncio.run(known.read([])) == {}
    assert read(first.event_id) == {}
    assert database.asked[1:] == [first.event_id]


def test_what_was_pinned_can_be_forgotten() -> None:
    database: Any = Empty()
    known = DecidedEvents(database, _VERSION)
    (event,) = members(1)
    known.pin(event)
    known.forget(event.event_id)
    known.unpin()
    assert asyncio.run(known.read([event.event_id])) == {}
