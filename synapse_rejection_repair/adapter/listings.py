"""The lists that an admin pages through: rooms with rejections, and a room's rejections."""

from __future__ import annotations

from typing import Any

from synapse.storage._base import db_to_json
from synapse.storage.database import LoggingTransaction

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.nodes import references
from synapse_rejection_repair.domain.listing import (
    Listing,
    Page,
    RejectionFilter,
    RejectionRow,
    RoomRow,
)

ROOM_ORDER = ("room_id", "name", "room_version", "rejected_events", "first_ts", "last_ts")
REJECTION_ORDER = ("origin_server_ts", "depth", "event_id", "type", "sender", "reason")


def _order(page: Page, allowed: tuple[str, ...], tie: str) -> str:
    assert page.order_by in allowed, page.order_by
    direction = "DESC" if page.backwards else "ASC"
    return f" ORDER BY {page.order_by} {direction}, {tie} {direction} LIMIT ? OFFSET ?"


async def list_rooms(database: Database, page: Page) -> Listing[RoomRow]:
    """The rooms with rejected events."""
    grouped = """
        SELECT e.room_id, COUNT(*) AS rejected_events,
               MIN(e.origin_server_ts) AS first_ts, MAX(e.origin_server_ts) AS last_ts
        FROM rejections AS r INNER JOIN events AS e USING (event_id)
        GROUP BY e.room_id"""

    def query(txn: LoggingTransaction) -> Listing[RoomRow]:
        txn.execute(
            f"""
            SELECT g.room_id AS room_id, s.name AS name, rooms.room_version AS room_version,
                   g.rejected_events AS rejected_events, g.first_ts AS first_ts,
                   g.last_ts AS last_ts
            FROM ({grouped}) AS g
            LEFT JOIN rooms ON rooms.room_id = g.room_id
            LEFT JOIN room_stats_state AS s ON s.room_id = g.room_id
            {_order(page, ROOM_ORDER, "room_id")}
            """,
            (page.limit, page.start),
        )
        rows = [RoomRow(*row) for row in txn]
        txn.execute(f"SELECT COUNT(*) FROM ({grouped}) AS g")
        return Listing(rows, _count(txn))

    return await database.run("list_rooms", query)


async def list_rejections(
    database: Database, room_id: str, wanted: RejectionFilter, page: Page
) -> Listing[RejectionRow]:
    """The rejected events of one room."""
    where, args = _conditions(room_id, wanted)
    join = "FROM rejections AS r INNER JOIN events AS e USING (event_id)"

    def query(txn: LoggingTransaction) -> Listing[RejectionRow]:
        txn.execute(
            f"""
            SELECT e.event_id AS event_id, e.type AS type, e.sender AS sender,
                   e.origin_server_ts AS origin_server_ts, e.depth AS depth, e.outlier,
                   r.reason AS reason
            {join} WHERE {where} {_order(page, REJECTION_ORDER, "event_id")}
            """,
            (*args, page.limit, page.start),
        )
        rows = txn.fetchall()
        txn.execute(f"SELECT COUNT(*) {join} WHERE {where}", args)
        total = _count(txn)

        clause, ids = database.in_list("event_id", [row[0] for row in rows])
        txn.execute(f"SELECT event_id, json FROM event_json WHERE {clause}", ids)
        events = {event_id: db_to_json(json) for event_id, json in txn}
        auths = {i: references(event, "auth_events") for i, event in events.items()}
        clause, ids = database.in_list("event_id", {a for found in auths.values() for a in found})
        txn.execute(f"SELECT event_id FROM rejections WHERE {clause}", ids)
        rejected = {event_id for (event_id,) in txn}
        return Listing(
            [
                RejectionRow(
                    event_id=event_id,
                    type=type_,
                    state_key=_text(events.get(event_id, {}).get("state_key")),
                    sender=sender,
                    origin_server_ts=ts,
                    depth=depth,
                    outlier=bool(outlier),
                    reason=reason,
                    cites=tuple(a for a in auths.get(event_id, ()) if a in rejected),
                )
                for event_id, type_, sender, ts, depth, outlier, reason in rows
            ],
            total,
        )

    return await database.run("list_rejections", query)


def _conditions(room_id: str, wanted: RejectionFilter) -> tuple[str, tuple[object, ...]]:
    conditions: list[tuple[str, object | None]] = [
        ("e.room_id = ?", room_id),
        ("e.origin_server_ts >= ?", wanted.since_ts),
        ("e.origin_server_ts <= ?", wanted.until_ts),
        ("e.type = ?", wanted.type),
        ("e.sender = ?", wanted.sender),
        ("r.reason = ?", wanted.reason),
    ]
    given = [(sql, value) for sql, value in conditions if value is not None]
    return " AND ".join(sql for sql, _ in given), tuple(value for _, value in given)


def _count(txn: LoggingTransaction) -> int:
    row = txn.fetchone()
    assert row is not None
    return int(row[0])


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
