"""What the database says of a room as a whole."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.domain.model import StateIds, server_of
from synapse_rejection_repair.errors import (
    NotInRoom,
    PartialState,
    UnknownRoom,
    UnsupportedRoomVersion,
)
from synapse_rejection_repair.ports import RoomReader


class SynapseRooms(RoomReader):
    """Reads from Synapse's database, on any of its processes.

    Args:
        database: Synapse's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def require_room(self, room_id: str) -> str:
        rows = await self._database.rows(
            "room_version", "SELECT room_version FROM rooms WHERE room_id = ?", (room_id,)
        )
        if not rows:
            raise UnknownRoom(room_id)
        version = rows[0][0]
        if version is None:
            raise UnsupportedRoomVersion(room_id, "unknown")
        return str(version)

    @override
    async def require_repairable(self, room_id: str) -> None:
        await self.require_known_version(room_id)
        partial = await self._database.rows(
            "partial_state", "SELECT 1 FROM partial_state_rooms WHERE room_id = ?", (room_id,)
        )
        if partial:
            raise PartialState(room_id)
        joined = await self._database.rows(
            "is_joined",
            "SELECT 1 FROM local_current_membership"
            " WHERE room_id = ? AND membership = 'join' LIMIT 1",
            (room_id,),
        )
        if not joined or not await self.current_state(room_id):
            raise NotInRoom(room_id)

    async def require_known_version(self, room_id: str) -> str:
        """The identifier of the room's version, if a plan can be made for such rooms.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: the room's version is not known, or keeps its state in
                a DAG of its own (MSC4242).
        """
        version = await self.require_room(room_id)
        known = KNOWN_ROOM_VERSIONS.get(version)
        if known is None or getattr(known, "msc4242_state_dags", False):
            raise UnsupportedRoomVersion(room_id, version)
        return version

    @override
    async def unknown_events(self, room_id: str, event_ids: Collection[str]) -> list[str]:
        rows = await self._database.rows_of(
            "known_events", "SELECT event_id, room_id FROM events WHERE", event_ids, "event_id"
        )
        known = {event_id for event_id, found in rows if found == room_id}
        return [event_id for event_id in event_ids if event_id not in known]

    async def state_of(self, event_ids: Collection[str]) -> StateIds:
        """The state that stored events make up; those that are no state events are left out."""
        rows = await self._database.rows_of(
            "state_of",
            "SELECT type, state_key, event_id FROM state_events WHERE",
            event_ids,
            "event_id",
        )
        return {(type_, state_key): event_id for type_, state_key, event_id in rows}

    @override
    async def position(self, room_id: str) -> int:
        ((newest,),) = await self._database.rows(
            "position", "SELECT MAX(stream_ordering) FROM events WHERE room_id = ?", (room_id,)
        )
        return newest or 0

    @override
    async def forward_extremities(self, room_id: str) -> frozenset[str]:
        rows = await self._database.rows(
            "extremities",
            "SELECT event_id FROM event_forward_extremities WHERE room_id = ?",
            (room_id,),
        )
        return frozenset(event_id for (event_id,) in rows)

    @override
    async def current_state(self, room_id: str) -> StateIds:
        rows = await self._database.rows(
            "current_state",
            "SELECT type, state_key, event_id FROM current_state_events WHERE room_id = ?",
            (room_id,),
        )
        return {(type_, state_key): event_id for type_, state_key, event_id in rows}

    @override
    async def servers_accepted_since(self, room_id: str, stream_ordering: int) -> list[str]:
        rows = await self._database.rows(
            "senders_since",
            "SELECT DISTINCT e.sender FROM events AS e LEFT JOIN rejections AS r USING (event_id)"
            " WHERE e.room_id = ? AND e.stream_ordering > ?"
            " AND NOT e.outlier AND r.event_id IS NULL",
            (room_id, stream_ordering),
        )
        return sorted({server_of(sender) for (sender,) in rows})

    @override
    async def bad_current_state(self, room_id: str) -> list[str]:
        """The events in the current state that are rejected or missing.

        Outliers are none: the state that a server is given when it joins consists of them.
        """
        state = set((await self.current_state(room_id)).values())
        rows = await self._database.rows_of(
            "in_state",
            "SELECT e.event_id FROM events AS e LEFT JOIN rejections AS r USING (event_id)"
            " WHERE r.event_id IS NULL AND",
            state,
            "e.event_id",
        )
        return sorted(state - {event_id for (event_id,) in rows})

    @override
    async def settled(self, room_id: str, since_ms: int) -> bool:
        """Whether every event that came in before that time has been processed.

        Synapse keeps an incoming event in `federation_inbound_events_staging` until it is
        done with it (`FederationServer._process_incoming_pdus_in_room_inner`, read in
        Synapse 1.151.0 and 1.163.2).
        """
        rows: list[tuple[Any, ...]] = await self._database.rows(
            "settled",
            "SELECT 1 FROM federation_inbound_events_staging"
            " WHERE room_id = ? AND received_ts <= ? LIMIT 1",
            (room_id, since_ms),
        )
        return not rows
