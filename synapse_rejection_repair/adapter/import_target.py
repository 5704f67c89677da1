"""This server, as the place that history is imported into."""

from __future__ import annotations

from collections.abc import Callable, Collection

from typing_extensions import override

from synapse_rejection_repair.adapter.admission import Admission, SourceKeys
from synapse_rejection_repair.adapter.arrival_forecast import ArrivalForecast
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.rooms import SynapseRooms
from synapse_rejection_repair.domain.imports import Held, ImportRequest
from synapse_rejection_repair.ports import Clock, StateReader
from synapse_rejection_repair.ports_imports import ImportTarget, Source

_HELD = {
    (False, False): Held.FULL,
    (False, True): Held.REJECTED,
    (True, False): Held.OUTLIER,
    (True, True): Held.REJECTED_OUTLIER,
}


class SynapseImportTarget(ImportTarget):
    """This server, as the place that history is imported into.

    Args:
        database: its main database.
        rooms: reads rooms.
        admission: verifies events.
        make_checker: gives a fresh checker for a room of a version.
        states: resolves states.
        clock: lets the server breathe.
    """

    def __init__(
        self,
        database: Database,
        rooms: SynapseRooms,
        admission: Admission,
        make_checker: Callable[[str], EventChecker],
        states: StateReader,
        clock: Clock,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._admission = admission
        self._make_checker = make_checker
        self._states = states
        self._clock = clock

    @override
    async def require_room(self, room_id: str) -> str:
        await self._rooms.require_repairable(room_id)
        return await self._rooms.require_room(room_id)

    @override
    async def joined_rooms(self, room_ids: Collection[str]) -> set[str]:
        rows = await self._database.rows_of(
            "joined_rooms",
            "SELECT DISTINCT room_id FROM local_current_membership WHERE membership = 'join' AND",
            room_ids,
            "room_id",
        )
        return {room_id for (room_id,) in rows}

    @override
    async def held(self, event_ids: Collection[str]) -> dict[str, Held]:
        rows = await self._database.rows_of(
            "held",
            "SELECT e.event_id, e.outlier,"
            " EXISTS (SELECT 1 FROM rejections AS r WHERE r.event_id = e.event_id)"
            " FROM events AS e WHERE",
            event_ids,
            "e.event_id",
        )
        return {
            event_id: _HELD[bool(outlier), bool(rejected)] for event_id, outlier, rejected in rows
        }

    @override
    def forecast(
        self, room_id: str, room_version: str, source: Source, request: ImportRequest
    ) -> ArrivalForecast:
        return ArrivalForecast(
            self._make_checker(room_version),
            self._admission,
            self._states,
            self.held,
            source,
            self._clock,
            room_id,
            room_version,
            SourceKeys(source) if request.verify_signatures else None,
            request.judge_rejected,
        )
