"""What Synapse derives from changes of rooms' states: statistics, and the user directory.

Its handlers learn of a change in the background, on whichever process it is that does so, by
the ids of the events before and after it, and take an event that is rejected for none. Where
a repair was undone, the event before is rejected, and they would not see that somebody is
gone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

from synapse.api.constants import EventTypes
from synapse.handlers.stats import StatsHandler
from synapse.server import HomeServer
from synapse.storage.databases.main.state_deltas import StateDelta

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.tables import JOURNAL
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.traces import trace
from synapse_rejection_repair.domain.undo import UNDO

logger = logging.getLogger(__name__)

_TAKEN_BACK = {UNDO, Action.REJECT.value}
"""What the journal says of events that were accepted and are not to have been."""

_Counts = dict[str, Counter[str]]


def follow_undoing(hs: HomeServer, database: Database) -> None:
    """Lets the handlers of this process see what was undone as what it is.

    Gives `StatsHandler` and `UserDirectoryHandler` a store that has rejected events as well
    (read in Synapse 1.151.0 and 1.163.2): no event that is rejected was ever in a room's
    state, but where it was accepted then.

    Args:
        hs: the homeserver.
        database: its main database.
    """
    if hs.config.worker.should_update_user_directory:
        directory = hs.get_user_directory_handler()
        directory.store = _StoreWithRejected(directory.store)  # type: ignore[assignment]
    if hs.config.stats.stats_enabled and hs.config.worker.run_background_tasks:
        stats = hs.get_stats_handler()
        stats.store = _StoreWithRejected(stats.store)  # type: ignore[assignment]
        UndoneStatistics(stats, database)


class _StoreWithRejected:
    """Synapse's store, for who reads events by what was a room's state."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_event(self, event_id: str, **kwargs: Any) -> Any:
        return await self._store.get_event(event_id, **{**kwargs, "allow_rejected": True})


class UndoneStatistics:
    """Has rooms' statistics count what was undone as if it had never been.

    Wraps `StatsHandler._handle_deltas` (read in Synapse 1.151.0 and 1.163.2). That goes on
    counting a state event that is gone without another in its place, and takes a member
    without one for somebody who left. Where the journal knows nothing of the event, as
    where this server leaves a room, it is left at that.

    Args:
        stats: the handler.
        database: Synapse's.
    """

    def __init__(self, stats: StatsHandler, database: Database) -> None:
        self._store: Any = stats.store
        self._database = database
        self._handle = stats._handle_deltas
        stats._handle_deltas = self._handle_deltas  # type: ignore[method-assign]

    async def _handle_deltas(self, deltas: Iterable[StateDelta]) -> tuple[_Counts, _Counts]:
        deltas = list(deltas)
        rooms, users = await self._handle(deltas)
        gone = {d.prev_event_id for d in deltas if d.event_id is None and d.prev_event_id}
        if gone:
            try:
                await self._count_back(deltas, await self._undone(gone), rooms)
            except Exception as e:
                # Nobody's statistics are to stop by an undoing.
                logger.error("What was undone stays in the statistics\n%s", trace(e))
        return rooms, users

    async def _undone(self, event_ids: set[str]) -> set[str]:
        rows = await self._database.rows_of(
            "undone", f"SELECT event_id, action FROM {JOURNAL} WHERE", event_ids, "event_id"
        )
        return {event_id for event_id, action in rows if action in _TAKEN_BACK}

    async def _count_back(
        self, deltas: Iterable[StateDelta], undone: set[str], rooms: _Counts
    ) -> None:
        for delta in deltas:
            if delta.event_id is not None or delta.prev_event_id not in undone:
                continue
            counted = await self._store.get_earliest_token_for_stats("room", delta.room_id)
            if counted is not None and counted >= delta.stream_id:
                continue
            counts = rooms.setdefault(delta.room_id, Counter())
            counts["current_state_events"] -= 1
            if delta.event_type == EventTypes.Member:
                counts["left_members"] -= 1
