"""The lists that an admin pages through: rooms with rejections, and a room's rejections."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attr
from synapse.storage.database import LoggingTransaction
from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.json_object import json_object
from synapse_rejection_repair.adapter.rejected import RejectedEvents
from synapse_rejection_repair.domain.listing import (
    Listing,
    Page,
    RejectionFilter,
    RejectionRow,
    RoomRow,
)
from synapse_rejection_repair.domain.references import references
from synapse_rejection_repair.domain.rejected import RoomCount
from synapse_rejection_repair.ports import Clock, ListingReader


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Listings(ListingReader):
    """Makes pages of the lists.

    Attributes:
        database: Synapse's.
        rejected: what is rejected.
        clock: lets the server breathe.
    """

    database: Database
    rejected: RejectedEvents
    clock: Clock

    @override
    async def rooms(self, page: Page) -> Listing[RoomRow]:
        table = await self.rejected.table()
        counts: Mapping[str, RoomCount] = await self.clock.in_thread(table.rooms)
        found = await self.database.rows_of(
            "list_rooms",
            "SELECT r.room_id, s.name, r.room_version FROM rooms AS r"
            " LEFT JOIN room_stats_state AS s ON s.room_id = r.room_id WHERE",
            counts.keys(),
            "r.room_id",
        )
        names = await self._names([room_id for room_id, name, _ in found if name is None])
        known = {room_id: (name or names.get(room_id), version) for room_id, name, version in found}
        rows = [
            RoomRow(room_id, *known.get(room_id, (None, None)), *attr.astuple(count))
            for room_id, count in counts.items()
        ]

        def order(row: RoomRow) -> tuple[Any, ...]:
            value = getattr(row, page.order_by)
            return (value is None, value, row.room_id)

        rows.sort(key=order, reverse=page.backwards)
        return Listing(rows[page.start : page.start + page.limit], len(rows))

    async def _names(self, room_ids: Collection[str]) -> dict[str, str]:
        """The names that rooms give themselves, which are no statistics where those are off."""
        rows = await self.database.rows_of(
            "list_names",
            "SELECT c.room_id, ej.json FROM current_state_events AS c"
            " INNER JOIN event_json AS ej ON ej.event_id = c.event_id"
            " WHERE c.type = 'm.room.name' AND c.state_key = '' AND",
            room_ids,
            "c.room_id",
        )
        contents = {room_id: json_object(json).get("content") for room_id, json in rows}
        found = {i: c.get("name") for i, c in contents.items() if isinstance(c, dict)}
        return {room_id: name for room_id, name in found.items() if isinstance(name, str)}

    @override
    async def rejections(
        self, room_id: str, wanted: RejectionFilter, page: Page
    ) -> Listing[RejectionRow]:
        table = await self.rejected.table()
        ids: Listing[str] = await self.clock.in_thread(table.page, room_id, wanted, page)
        rows = await self.database.run("list_rejections", self._read, ids.rows)
        return Listing([rows[event_id] for event_id in ids.rows if event_id in rows], ids.total)

    def _read(self, txn: LoggingTransaction, event_ids: list[str]) -> dict[str, RejectionRow]:
        clause, args = self.database.in_list("e.event_id", event_ids)
        txn.execute(
            "SELECT e.event_id, e.type, e.sender, e.origin_server_ts, e.depth, e.outlier,"
            " r.reason, ej.json FROM events AS e INNER JOIN rejections AS r USING (event_id)"
            f" LEFT JOIN event_json AS ej USING (event_id) WHERE {clause}",
            args,
        )
        found = [(row, json_object(row[-1])) for row in txn.fetchall()]
        auths = {row[0]: references(event, "auth_events") for row, event in found}
        clause, args = self.database.in_list("event_id", {a for ids in auths.values() for a in ids})
        txn.execute(f"SELECT event_id FROM rejections WHERE {clause}", args)
        rejected = {event_id for (event_id,) in txn}
        return {
            event_id: RejectionRow(
                event_id=event_id,
                type=type_,
                state_key=_text(event.get("state_key")),
                sender=sender,
                origin_server_ts=ts,
                depth=depth,
                outlier=bool(outlier),
                reason=reason,
                cites=tuple(a for a in auths[event_id] if a in rejected),
            )
            for (event_id, type_, sender, ts, depth, outlier, reason, _), event in found
        }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
