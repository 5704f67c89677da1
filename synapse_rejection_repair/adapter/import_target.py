"""This server, as the place that history is imported into; and what was left out."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from synapse_rejection_repair.adapter.admission import Admission
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.reader import SynapseReader
from synapse_rejection_repair.adapter.tables import JOURNAL
from synapse_rejection_repair.domain.imports import Held, Skip, Skipped, SourceEvent
from synapse_rejection_repair.domain.listing import Listing, Page

SKIPPED = "skip"
"""What the journal calls it when an event is left out."""


class SynapseImportTarget:
    """This server, as the place that history is imported into.

    Args:
        database: its main database.
        reader: reads rooms.
        admission: verifies events.
    """

    def __init__(self, database: Database, reader: SynapseReader, admission: Admission) -> None:
        self._database = database
        self._reader = reader
        self._admission = admission

    async def require_room(self, room_id: str) -> str:
        """The room's version.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: the room's version is not known.
            PartialState: the room's state is still being fetched.
            NotInRoom: no local user is joined.
        """
        await self._reader.require_repairable(room_id)
        return await self._reader.require_room(room_id)

    async def joined_rooms(self, room_ids: Collection[str]) -> set[str]:
        """Those of the rooms that a user of this server is in."""
        rows = await self._database.rows_of(
            "joined_rooms",
            "SELECT DISTINCT room_id FROM local_current_membership WHERE membership = 'join' AND",
            room_ids,
            "room_id",
        )
        return {room_id for (room_id,) in rows}

    async def held(self, event_ids: Collection[str]) -> dict[str, Held]:
        """How this server has those of the events that it has."""
        rows = await self._database.rows_of(
            "held",
            "SELECT e.event_id, e.outlier, r.event_id IS NOT NULL FROM events AS e"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id WHERE",
            event_ids,
            "e.event_id",
        )
        return {
            event_id: (
                Held.OUTLIER
                if outlier and not rejected
                else Held.REJECTED
                if rejected
                else Held.FULL
            )
            for event_id, outlier, rejected in rows
        }

    async def inspect(
        self, room_id: str, room_version: str, events: Sequence[SourceEvent]
    ) -> tuple[list[Skipped], list[str]]:
        """The events that cannot be had as they are, and those that would arrive redacted."""
        admitted, skipped = await self._admission.check(room_id, room_version, events)
        return skipped, [a.event.event_id for a in admitted if a.pruned]


class SynapseSkippedList:
    """Reads from the journal what imports have left out, or stored as rejected.

    Args:
        database: Synapse's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, job_id: str, page: Page) -> Listing[Skipped]:
        """The events that an import has skipped."""
        where = f"FROM {JOURNAL} WHERE job_id = ? AND action = ?"
        direction = "DESC" if page.backwards else "ASC"
        rows = await self._database.rows(
            "skipped",
            f"SELECT event_id, original_rows {where}"
            f" ORDER BY {page.order_by} {direction}, event_id {direction} LIMIT ? OFFSET ?",
            (job_id, SKIPPED, page.limit, page.start),
        )
        ((total,),) = await self._database.rows(
            "count_skipped", f"SELECT COUNT(*) {where}", (job_id, SKIPPED)
        )
        found = []
        for event_id, text in rows:
            why = json.loads(text)
            found.append(Skipped(event_id, Skip(why["reason"]), why["error"]))
        return Listing(found, total)
