"""Stored states and Synapse's own state resolution, reading only."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from synapse.api.constants import EventTypes
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, StateResolutionVersions
from synapse.events import EventBase
from synapse.server import HomeServer
from synapse.state import StateResolutionStore, v1, v2
from synapse.storage.databases.main import DataStore
from synapse.storage.databases.state.deletion import StateDeletionDataStore
from synapse.types.state import StateFilter
from typing_extensions import override

from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.ports import Checker, StateReader


class _WithDecided(StateResolutionStore):
    """Gives state resolution the events as a checker has decided on them so far."""

    def __init__(
        self, store: DataStore, deletion: StateDeletionDataStore, checker: EventChecker
    ) -> None:
        super().__init__(store, deletion)
        self._checker = checker

    async def get_events(
        self, event_ids: Collection[str], allow_rejected: bool = False
    ) -> dict[str, EventBase]:
        events = await self._checker.known.read(event_ids)
        return {
            event_id: event
            for event_id, event in events.items()
            if allow_rejected or event.rejected_reason is None
        }


class SynapseStates(StateReader):
    """Reads states on any of Synapse's processes.

    Args:
        hs: the homeserver.
        database: its main database.
    """

    def __init__(self, hs: HomeServer, database: Database) -> None:
        self._is_mine = hs.is_mine_id
        self._database = database
        self._clock = hs.get_clock()
        self._stores = hs.get_datastores()
        self._states = hs.get_storage_controllers().state
        self._handler = hs.get_state_handler()

    @override
    async def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        return await self._read(group, StateFilter.from_types(keys))

    @override
    async def full(self, group: int) -> StateIds:
        return await self._read(group, StateFilter.all())

    @override
    async def after(self, room_id: str, event_ids: Collection[str]) -> StateIds:
        state = await self._handler.compute_state_after_events(room_id, list(event_ids))
        return dict(state)

    @override
    async def joined_here(self, state: StateIds) -> bool:
        ours = [i for key, i in state.items() if self._is_of_ours(key)]
        rows = await self._database.rows_of(
            "joined_here",
            "SELECT 1 FROM room_memberships WHERE membership = 'join' AND",
            ours,
            "event_id",
        )
        return bool(rows)

    async def local_memberships(self, room_id: str) -> StateIds:
        """The memberships of this server's users, as it knows of them in the room or out of it."""
        rows = await self._database.rows(
            "local_memberships",
            "SELECT user_id, event_id FROM local_current_membership WHERE room_id = ?",
            (room_id,),
        )
        return {(EventTypes.Member, user_id): event_id for user_id, event_id in rows}

    def _is_of_ours(self, key: StateKey) -> bool:
        return key[0] == EventTypes.Member and self._is_mine(key[1])

    async def _read(self, group: int, which: StateFilter) -> StateIds:
        states = await self._states.get_state_for_groups([group], which)
        return dict(states[group])

    @override
    async def resolve(
        self, room_id: str, room_version: str, states: Sequence[StateIds], checker: Checker
    ) -> StateIds:
        """Goes past `StateResolutionHandler` to the algorithms.

        (`state.v1` and `state.v2`, read in Synapse 1.151.0 and 1.163.2.) So a result that holds
        only in a plan never gets into the server's caches.
        """
        assert isinstance(checker, EventChecker)
        version = KNOWN_ROOM_VERSIONS[room_version]
        # The algorithms look up in the database who cites whom, but for events that they are given.
        unstored = dict(checker.known.guests)
        store = _WithDecided(self._stores.main, self._stores.state_deletion, checker)
        if version.state_res == StateResolutionVersions.V1:
            resolved = await v1.resolve_events_with_store(
                room_id, version, states, unstored, store.get_events
            )
        else:
            resolved = await v2.resolve_events_with_store(
                self._clock, room_id, version, states, unstored, store
            )
        return dict(resolved)
