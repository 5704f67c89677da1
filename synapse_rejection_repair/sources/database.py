"""What an old Synapse database says of its rooms, on whatever connection."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from typing import Any

from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.references import is_id
from synapse_rejection_repair.domain.source import Position, SourceEvent
from synapse_rejection_repair.sources.connection import Connection, marks
from synapse_rejection_repair.sources.media import MediaTables
from synapse_rejection_repair.sources.schema import Schema, examine
from synapse_rejection_repair.sources.states import StateTables

_EVENT = (
    "SELECT e.event_id, e.topological_ordering, e.stream_ordering, ej.json,"
    " ej.internal_metadata, g.state_group, r.event_id IS NOT NULL, e.outlier, e.room_id"
    " FROM events AS e LEFT JOIN event_json AS ej ON ej.event_id = e.event_id"
    " LEFT JOIN event_to_state_groups AS g ON g.event_id = e.event_id"
    " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
)


class SourceDatabase:
    """Reads an old database, a batch at a time, and blocks while it does.

    Events that are asked for by their ids are asked for by nothing else: told the room too, a
    SQLite database that was never analysed goes through all of the room.

    Args:
        connection: to the database.

    Raises:
        SchemaRefused: it is none of Synapse's, or too old.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._schema: Schema = examine(connection)
        self.states = StateTables(connection)
        self.media = MediaTables(connection)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def rooms(self) -> dict[str, int]:
        """How many events the old server has accepted, by room."""
        return dict(
            self._connection.query(
                "SELECT e.room_id, COUNT(*) FROM events AS e"
                " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
                " WHERE NOT e.outlier AND r.event_id IS NULL GROUP BY e.room_id"
            )
        )

    def room_version(self, room_id: str) -> str | None:
        """The room's version, `None` if unknown."""
        if not self._schema.room_versions:
            return None
        rows = self._connection.query(
            "SELECT room_version FROM rooms WHERE room_id = ?", (room_id,)
        )
        return rows[0][0] if rows else None

    def ids(
        self, room_id: str, after: Position, limit: int, *, rejected: bool
    ) -> list[tuple[Position, str]]:
        """The next of the room's events that are no outliers, in the source's order."""
        which = "" if rejected else " r.event_id IS NULL AND"
        rows = self._page(
            "SELECT e.topological_ordering, e.stream_ordering, e.event_id FROM events AS e"
            f" LEFT JOIN rejections AS r ON r.event_id = e.event_id WHERE{which}",
            room_id,
            after,
            limit,
        )
        return [(Position(topological, stream), i) for topological, stream, i in rows]

    def history(self, room_id: str, after: Position, limit: int) -> list[SourceEvent]:
        """The next of the room's events that are no outliers, in the source's order."""
        return self._events(self._page(f"{_EVENT} WHERE", room_id, after, limit))

    def _page(self, sql: str, room_id: str, after: Position, limit: int) -> list[tuple[Any, ...]]:
        """The next rows of a query of a room's events that ends before its conditions."""
        rows: list[tuple[Any, ...]] = []
        # In two: SQLite makes nothing of the second part of a pair, and there are rooms where all
        # events have come to claim one depth, the highest that there is.
        for where, args in (
            ("e.topological_ordering = ? AND e.stream_ordering > ?", after),
            ("e.topological_ordering > ?", after[:1]),
        ):
            if len(rows) < limit:
                rows += self._connection.query(
                    f"{sql} e.room_id = ? AND NOT e.outlier AND {where}"
                    " ORDER BY e.topological_ordering, e.stream_ordering LIMIT ?",
                    (room_id, *args, limit - len(rows)),
                )
        return rows

    def events(self, room_id: str, event_ids: Collection[str]) -> dict[str, SourceEvent]:
        """Some of the room's events, outliers too; unknown ids are left out."""
        rows: list[tuple[Any, ...]] = []
        for ids in batches(event_ids):
            found = self._connection.query(f"{_EVENT} WHERE e.event_id IN ({marks(ids)})", ids)
            rows += [row for row in found if row[-1] == room_id]
        return {event.event_id: event for event in self._events(rows)}

    def positions(self, room_id: str, event_ids: Collection[str]) -> dict[str, Position]:
        """Where those of the events are in its order that it has as no outliers."""
        found = {}
        for ids in batches(event_ids):
            for event_id, topological, stream, room in self._connection.query(
                "SELECT event_id, topological_ordering, stream_ordering, room_id FROM events"
                f" WHERE NOT outlier AND event_id IN ({marks(ids)})",
                ids,
            ):
                if room == room_id:
                    found[event_id] = Position(topological, stream)
        return found

    def _events(self, rows: Collection[tuple[Any, ...]]) -> list[SourceEvent]:
        pdus = [_object(row[3]) for row in rows]
        erased = self._erased({(pdu or {}).get("sender") for pdu in pdus})
        return [
            SourceEvent(
                event_id=event_id,
                position=Position(topological, stream),
                pdu=pdu,
                state_group=group,
                rejected=bool(rejected),
                outlier=bool(outlier),
                soft_failed=(_object(metadata) or {}).get("soft_failed") is True,
                erased=(pdu or {}).get("sender") in erased,
            )
            for pdu, row in zip(pdus, rows, strict=True)
            for event_id, topological, stream, _, metadata, group, rejected, outlier, _ in [row]
        ]

    def _erased(self, senders: Collection[object]) -> set[str]:
        """Those of some users who have had themselves erased."""
        if not self._schema.erased:
            return set()
        found: set[str] = set()
        for some in batches(sender for sender in senders if is_id(sender)):
            found.update(
                user_id
                for (user_id,) in self._connection.query(
                    f"SELECT user_id FROM erased_users WHERE user_id IN ({marks(some)})", some
                )
            )
        return found

    def verify_keys(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The keys that it has cached, by server and key id, in unpadded base64."""
        if not self._schema.keys:
            return {}
        found = {}
        for server, key_id in wanted:
            for (key,) in self._connection.query(
                "SELECT verify_key FROM server_signature_keys WHERE server_name = ? AND key_id = ?",
                (server, key_id),
            ):
                found[server, key_id] = base64.b64encode(bytes(key)).decode().rstrip("=")
        return found


def _object(text: object) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if isinstance(text, (str, bytes)) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
