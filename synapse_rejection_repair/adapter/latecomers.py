"""What was on its way into a room while events of it were put back as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synapse.events import EventBase
from synapse.events.snapshot import EventContext, EventPersistencePair
from synapse.server import HomeServer

from synapse_rejection_repair.adapter.contexts import EventContexts
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.ports import StateReader


class Latecomers:
    """Finds events that were made or judged by what is no longer so.

    What such an event follows and cites, and the state before it, was looked up as it was
    sent or came in, maybe by another process. An event of this server's has to be made again
    then, since it is signed; Synapse does so where it is refused with a
    `PartialStateConflictError`.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        contexts: computes states.
        states: reads states.
    """

    def __init__(
        self, hs: HomeServer, database: Database, contexts: EventContexts, states: StateReader
    ) -> None:
        self._is_mine_id = hs.is_mine_id
        self._database = database
        self._contexts = contexts
        self._states = states

    async def stale(self, pairs: Sequence[EventPersistencePair], backfilled: bool) -> set[str]:
        """Those of a batch of events that are not to be stored as they came.

        Args:
            pairs: the events with what they came with; no outliers.
            backfilled: whether they are history, whose state may come from elsewhere.
        """
        # What is rejected may refer to anything, and builds on nothing.
        standing = [event for event, context in pairs if not context.rejected]
        others = {i for e in standing for i in (*e.prev_event_ids(), *e.auth_event_ids())}
        rejected = await self._rejected(others)
        known: dict[str, int] = {}
        found: set[str] = set()
        for event, context in pairs:
            prevs = {*event.prev_event_ids()}
            builds_on = set() if context.rejected else {*event.auth_event_ids()}
            # Other servers, and those of the past, may have good reason to follow what is
            # rejected here.
            if self._is_mine_id(event.sender) and not (backfilled or context.rejected):
                builds_on |= prevs
            if (
                rejected & builds_on
                or found & prevs
                or (not backfilled and await self._state_differs(event, context, known))
            ):
                found.add(event.event_id)
            group = context.state_group_before_event if context.rejected else context.state_group
            if group is not None:
                known[event.event_id] = group
        return found

    async def _rejected(self, event_ids: set[str]) -> set[str]:
        rows = await self._database.rows_of(
            "rejected_of", "SELECT event_id FROM rejections WHERE", event_ids, "event_id"
        )
        return {event_id for (event_id,) in rows}

    async def _state_differs(
        self, event: EventBase, context: EventContext, known: Mapping[str, int]
    ) -> bool:
        prevs = event.prev_event_ids()
        groups = await self._contexts.groups(event, known)
        came_with = context.state_group_before_event
        distinct = {*groups.values()}
        if (
            came_with is None
            or not prevs
            # Then another server has told the state.
            or any(p not in groups for p in prevs)
            or distinct == {came_with}
        ):
            return False
        if len(distinct) == 1:
            today = await self._states.full(distinct.pop())
        elif known.keys() & {*prevs}:
            # Synapse's own computation does not see what is not stored yet.
            return False
        else:
            today = await self._states.after(event.room_id, prevs)
        return today != await self._states.full(came_with)
