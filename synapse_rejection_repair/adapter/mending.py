"""Bringing a room's forward extremities and current state in line with its accepted events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.storage.databases.main.events import DeltaState
from synapse.types import StreamKeyType

from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.resolved import ResolvedStates
from synapse_rejection_repair.adapter.rooms import SynapseRooms
from synapse_rejection_repair.adapter.states import SynapseStates
from synapse_rejection_repair.domain.extremities import forward_extremities
from synapse_rejection_repair.domain.model import StateIds


class RoomMending:
    """Mends rooms inside Synapse's own queue of a room's writes, so that nothing comes between.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        rooms: knows rooms.
        dag: knows their events.
        states: reads states.
        hooks: into Synapse's persistence.
        resolved: what processes remember of resolved states.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        rooms: SynapseRooms,
        dag: SynapseDag,
        states: SynapseStates,
        hooks: PersistenceHooks,
        resolved: ResolvedStates,
    ) -> None:
        self._stores = hs.get_datastores()
        self._store = self._stores.main
        self._notifier = hs.get_notifier()
        self._database = database
        self._rooms = rooms
        self._dag = dag
        self._states = states
        self._hooks = hooks
        self._resolved = resolved

    async def mend(self, room_id: str, first: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Brings a room in line, and wakes the clients that wait for it.

        Args:
            room_id: the room.
            first: what to do before, while no event of the room is being stored; gives the
                events that may be forward extremities then.
        """

        async def mend() -> None:
            await self._mend_extremities(room_id, await first())
            # Once more: what was resolved while events were stored anew may have been resolved
            # with them as they were.
            await self._database.run("forget_resolved", self._resolved.forget)

        async def settle(delta: DeltaState, state: StateIds) -> None:
            await self._leave_unless_joined(room_id, delta, state)

        await self._hooks.update_current_state(room_id, mend, settle)
        await self.forget(room_id)
        self._notifier.on_new_event(
            StreamKeyType.ROOM, self._store.get_room_max_token(), rooms=[room_id]
        )
        self._notifier.notify_replication()

    async def forget(self, room_id: str) -> None:
        """Has all processes forget what they have made of a room's current state as it was.

        Args:
            room_id: the room.
        """

        def forget(txn: LoggingTransaction) -> None:
            self._resolved.forget(txn)
            self._store._invalidate_cache_and_stream(
                txn, self._store.get_retention_policy_for_room, (room_id,)
            )

        await self._database.run("forget_derived", forget)

    async def _leave_unless_joined(self, room_id: str, delta: DeltaState, state: StateIds) -> None:
        """Has Synapse drop a room's current state where none of its users is joined any more.

        Mirrors `EventsPersistenceStorageController._is_server_still_joined`, which is asked
        when events are stored, but not when the current state is recomputed (read in
        Synapse 1.151.0 and 1.163.2).

        Args:
            room_id: the room.
            delta: how the current state is about to change; changed.
            state: what it is about to become.
        """
        if await self._states.joined_here(state):
            return
        delta.no_longer_in_room = True
        # The state that was dropped before is all new: who has forgotten the room stays so.
        known = (await self._states.local_memberships(room_id)).items()
        delta.to_insert = {k: i for k, i in delta.to_insert.items() if (k, i) not in known}

    async def _mend_extremities(self, room_id: str, planned: Collection[str]) -> None:
        stored = await self._rooms.forward_extremities(room_id)
        candidates = stored | frozenset(planned)
        bad = await self._dag.not_standing(candidates)
        followed = await self._dag.followed(candidates)
        wanted = forward_extremities(candidates, bad, (), followed)
        # A plan names others where all are bad, and where nothing else stands, nothing is undone:
        # what is left then are bad ones, with which a room goes on, as it does not with none.
        if wanted == stored or not wanted:
            return
        persist = self._stores.persist_events
        assert persist is not None
        position = self._store.get_room_max_stream_ordering()

        def write(txn: LoggingTransaction) -> None:
            persist._update_forward_extremities_txn(
                txn,
                room_id,
                new_forward_extremities=set(wanted),
                max_stream_order=position,
            )
            self._store._invalidate_cache_and_stream(
                txn, self._store.get_latest_event_ids_in_room, (room_id,)
            )

        await self._database.run("mend_extremities", write)
