"""Lists in pages, with Synapse's own conventions for `from`, `limit`, `order_by` and `dir`."""

from __future__ import annotations

from typing import Generic, TypeVar

import attr

Row = TypeVar("Row")


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Page:
    """The part of a list that is asked for.

    Attributes:
        start: how many rows to skip.
        limit: how many rows to give at most.
        order_by: the field to sort by.
        backwards: sort from the highest down.
    """

    start: int
    limit: int
    order_by: str
    backwards: bool = False


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Listing(Generic[Row]):
    """A page of a list.

    Attributes:
        rows: the rows of the page.
        total: how many rows the whole list has.
    """

    rows: list[Row]
    total: int


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RoomRow:
    """A room with rejected events, as the list of rooms shows it.

    Attributes:
        room_id: the room.
        name: its name, `None` if it has none.
        room_version: its version's identifier, `None` if unknown.
        rejected_events: how many of its events are rejected.
        first_ts: the earliest `origin_server_ts` among them, in milliseconds.
        last_ts: the latest.
    """

    room_id: str
    name: str | None
    room_version: str | None
    rejected_events: int
    first_ts: int
    last_ts: int


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RejectionRow:
    """A rejected event, as the list of a room's rejections shows it.

    Attributes:
        event_id: the event.
        type: its type.
        state_key: its state key, `None` if it is no state event.
        sender: who sent it.
        origin_server_ts: when its server says it was made, in milliseconds.
        depth: the depth that its server claims.
        outlier: this server holds no state at it.
        reason: why it was rejected.
        cites: the rejected events among its auth events.
    """

    event_id: str
    type: str
    state_key: str | None
    sender: str
    origin_server_ts: int
    depth: int
    outlier: bool
    reason: str
    cites: tuple[str, ...]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RejectionFilter:
    """Which of a room's rejections are listed; `None` for all.

    Attributes:
        since_ts: made at or after, in milliseconds.
        until_ts: made at or before, in milliseconds.
        type: of this event type.
        sender: of this user.
        reason: rejected for this reason.
    """

    since_ts: int | None = None
    until_ts: int | None = None
    type: str | None = None
    sender: str | None = None
    reason: str | None = None
