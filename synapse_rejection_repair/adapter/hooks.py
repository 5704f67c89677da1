"""Six places inside Synapse's event persistence at which a repair takes part in its work.

All are methods of objects of the process that writes a room's events, wrapped on those objects.
For rooms and events that no repair has announced, they only look into an empty collection.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import attr
from synapse.api.errors import PartialStateConflictError
from synapse.events import EventBase
from synapse.events.snapshot import EventContext, EventPersistencePair
from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.storage.databases.main.events import DeltaState
from synapse.types import StateMap
from synapse.util.duration import Duration

from synapse_rejection_repair.adapter.takeaway import TakenAway, put_back
from synapse_rejection_repair.domain.model import StateIds
from synapse_rejection_repair.domain.traces import trace

logger = logging.getLogger(__name__)

TakeAway = Callable[[LoggingTransaction, Collection[str]], TakenAway]
Settle = Callable[[DeltaState, StateIds], Awaitable[None]]
Renew = Callable[[EventBase, EventContext, dict[str, int]], Awaitable[EventContext]]
FindStale = Callable[[Sequence[EventPersistencePair], bool], Awaitable[set[str]]]

_GRACE_SECONDS = 60.0
"""How long a room's events are still looked at after it was refusing some, in seconds.

Longer than an event is on its way to be stored, also from another process.
"""

_PAUSE_SECONDS = 0.2
"""How long the sender of a refused event waits before it is told so, in seconds.

It tries again at once, and its process is to have heard of what has changed.
"""


class _Refused(PartialStateConflictError):
    """Some events of a batch have to be made, or judged, again before they can be stored.

    Synapse's own error for that: whoever sends or receives an event answers it by starting over,
    a sender up to five times (`EventCreationHandler`), a receiver once
    (`FederationEventHandler`), also from another process (`persist_events_and_notify`,
    `send_events`; read in Synapse 1.151.0 and 1.163.2).

    Args:
        event_ids: these events.
    """

    def __init__(self, event_ids: frozenset[str]) -> None:
        super().__init__()
        self.event_ids = event_ids


@attr.s(eq=False, slots=True, auto_attribs=True)
class _Gate:
    """Who is let into a room.

    Attributes:
        find_stale: finds the events that are to be refused.
        refused: those that were: not again, as their receiver would give them up then.
    """

    find_stale: FindStale
    refused: set[str] = attr.Factory(set)


class PersistenceHooks:
    """Lets a repair act in Synapse's own transaction and in its own queue of a room's writes.

    Wraps `PersistEventsStore._persist_events_txn` and, of
    `EventsPersistenceStorageController`, `_persist_event_batch`, `_update_current_state`,
    `_calculate_state_delta`, `_calculate_new_extremities`, `_get_new_state_after_events` and
    `add_to_queue` of its
    `_EventPeristenceQueue` (read in Synapse 1.151.0 and 1.163.2).

    `_get_new_state_after_events` refuses a batch of accepted events with a rejected one
    among them, though Synapse itself batches what waits to be stored: a repair, which many
    events wait for, would fail, and lose what others send to the room, wherever one of
    those is rejected.

    `_calculate_new_extremities` leaves a room the forward extremities that it has where it would
    leave it none. That is so while all that it ends with is followed by what a repair has
    delivered as history: Synapse would fail to store whatever is rejected or soft-failed then.

    Args:
        hs: a homeserver process that writes events.
    """

    def __init__(self, hs: HomeServer) -> None:
        self._announced: dict[str, TakeAway] = {}
        self._before_state: dict[str, tuple[Callable[[], Awaitable[None]], Settle]] = {}
        self._settled: dict[str, Settle] = {}
        self._attended: dict[str, Renew] = {}
        self._held: set[str] = set()
        self._gates: dict[str, _Gate] = {}
        self._clock = hs.get_clock()

        self._store = hs.get_datastores().main
        persist_events = hs.get_datastores().persist_events
        controller = hs.get_storage_controllers().persistence
        assert persist_events is not None and controller is not None
        self._controller = controller

        self._persist_txn = persist_events._persist_events_txn
        self._persist_batch = controller._persist_event_batch
        self._update_state = controller._update_current_state
        self._calculate_delta = controller._calculate_state_delta
        self._new_extremities = controller._calculate_new_extremities
        self._get_new_state = controller._get_new_state_after_events
        self._add = controller._event_persist_queue.add_to_queue
        persist_events._persist_events_txn = self._persist_events_txn  # type: ignore[method-assign]
        controller._persist_event_batch = self._persist_event_batch  # type: ignore[method-assign]
        controller._update_current_state = self._update_current_state  # type: ignore[method-assign,assignment]
        controller._calculate_state_delta = self._calculate_state_delta  # type: ignore[method-assign]
        controller._calculate_new_extremities = self._calculate_new_extremities  # type: ignore[method-assign]
        controller._get_new_state_after_events = self._get_new_state_after_events  # type: ignore[method-assign]
        controller._event_persist_queue.add_to_queue = self._add_to_queue  # type: ignore[method-assign]

    @contextmanager
    def storing_anew(self, event_ids: Collection[str], take_away: TakeAway) -> Iterator[None]:
        """While it lasts, storing one of the events takes its old rows away first.

        Args:
            event_ids: the events.
            take_away: called in the transaction that stores them, with those of the
                events that it stores.
        """
        self._announced.update(dict.fromkeys(event_ids, take_away))
        try:
            yield
        finally:
            for event_id in event_ids:
                self._announced.pop(event_id, None)

    @contextmanager
    def attending(self, room_id: str, renew: Renew) -> Iterator[None]:
        """While it lasts, events that others send to a room are looked at before they are stored.

        Args:
            room_id: the room.
            renew: gives the context to store an event with, of the event, the one that it
                came with, and the state groups of those before it in its batch.
        """
        self._attended[room_id] = renew
        try:
            yield
        finally:
            self._attended.pop(room_id, None)

    @contextmanager
    def refusing(self, room_id: str, find_stale: FindStale) -> Iterator[None]:
        """While it lasts and some time after, what others send to a room may have to be sent anew.

        Args:
            room_id: the room.
            find_stale: gives the ids of the events that are to be made or judged again, of
                those that are about to be stored, and whether they are backfilled.
        """
        gate = self._gates[room_id] = _Gate(find_stale)

        def reopen() -> None:
            if self._gates.get(room_id) is gate:
                del self._gates[room_id]

        try:
            yield
        finally:
            self._clock.call_later(Duration(seconds=_GRACE_SECONDS), reopen)

    async def update_current_state(
        self, room_id: str, before: Callable[[], Awaitable[None]], settle: Settle
    ) -> None:
        """Recomputes a room's current state, doing something else first.

        Meanwhile none of the room's events is being stored, but for those of `storing_anew`.

        Args:
            room_id: the room.
            before: what to do first.
            settle: has the last word on how the current state changes; called with that and
                with what it becomes.
        """
        self._before_state[room_id] = before, settle
        try:
            await self._controller.update_current_state(room_id)
        finally:
            self._before_state.pop(room_id, None)

    def _persist_events_txn(self, txn: LoggingTransaction, **kwargs: Any) -> None:
        taken: list[TakenAway] = []
        if self._announced:
            by_callback: dict[TakeAway, list[str]] = {}
            for event, _ in kwargs["events_and_contexts"]:
                take_away = self._announced.get(event.event_id)
                if take_away is not None:
                    by_callback.setdefault(take_away, []).append(event.event_id)
            taken = [take_away(txn, ids) for take_away, ids in by_callback.items()]
        self._persist_txn(txn, **kwargs)
        for one in taken:
            users = put_back(txn, one)
            if users:
                self._store._invalidate_state_caches_and_stream(txn, one.room_id, users)

    async def _persist_event_batch(self, room_id: str, task: Any) -> Any:
        gate = self._gates.get(room_id)
        if gate is not None:
            await self._refuse_stale(gate, task)
        renew = self._attended.get(room_id)
        if renew is not None and not task.backfilled:
            known: dict[str, int] = {}
            pairs = task.events_and_contexts
            for number, (event, context) in enumerate(pairs):
                ours = event.event_id in self._announced
                if ours or event.internal_metadata.is_outlier():
                    continue
                try:
                    pairs[number] = event, await renew(event, context, known)
                except Exception as e:
                    # Nobody else's event is to fail by a repair: the next pass mends its state.
                    where = trace(e)
                    logger.error("The state at %s is stored as it came\n%s", event.event_id, where)
        return await self._persist_batch(room_id, task)

    async def _refuse_stale(self, gate: _Gate, task: Any) -> None:
        others = [
            (event, context)
            for event, context in task.events_and_contexts
            if event.event_id not in self._announced and not event.internal_metadata.is_outlier()
        ]
        try:
            stale = await gate.find_stale(others, task.backfilled) - gate.refused
        except Exception as e:
            # Nobody else's event is to fail by a repair: the next repair mends its state.
            ids = [event.event_id for event, _ in others]
            logger.error("Stored as they came: %s\n%s", ids, trace(e))
            return
        if stale:
            logger.info("To be made or judged again before they are stored: %s", sorted(stale))
            gate.refused |= stale
            raise _Refused(frozenset(stale))

    async def _update_current_state(self, room_id: str, task: Any) -> None:
        ours = self._before_state.pop(room_id, None)
        if ours is None:
            await self._update_state(room_id, task)
            return
        before, settle = ours
        self._held.add(room_id)
        try:
            await before()
        finally:
            self._held.discard(room_id)
        self._settled[room_id] = settle
        try:
            await self._update_state(room_id, task)
        finally:
            del self._settled[room_id]

    async def _calculate_state_delta(self, room_id: str, current_state: StateMap[str]) -> Any:
        delta = await self._calculate_delta(room_id, current_state)
        settle = self._settled.get(room_id)
        if settle is not None:
            await settle(delta, current_state)
        return delta

    async def _add_to_queue(self, room_id: str, task: Any) -> Any:
        if room_id in self._held:
            pairs = getattr(task, "events_and_contexts", ())
            if pairs and all(event.event_id in self._announced for event, _ in pairs):
                # The queue waits for the repair: the repair cannot wait for the queue.
                return await self._persist_batch(room_id, task)
        pairs = getattr(task, "events_and_contexts", ())
        if pairs and room_id in self._gates:
            return await self._add_for_itself(room_id, task)
        return await self._add(room_id, task)

    async def _add_for_itself(self, room_id: str, task: Any) -> Any:
        """Puts events into the queue, again where those that they waited with were refused.

        Synapse stores what waits for the same room in one batch, and fails it as one.
        """
        pairs = list(task.events_and_contexts)
        while True:
            try:
                return await self._add(room_id, attr.evolve(task, events_and_contexts=list(pairs)))
            except _Refused as e:
                if e.event_ids.isdisjoint(event.event_id for event, _ in pairs):
                    continue
                await self._clock.sleep(Duration(seconds=_PAUSE_SECONDS))
                raise

    async def _calculate_new_extremities(
        self,
        room_id: str,
        event_contexts: Sequence[EventPersistencePair],
        latest_event_ids: Set[str],
    ) -> set[str]:
        found = await self._new_extremities(room_id, event_contexts, latest_event_ids)
        return found or set(latest_event_ids)

    async def _get_new_state_after_events(
        self,
        room_id: str,
        events_context: Sequence[EventPersistencePair],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        # A rejected event has no part in the state after a batch.
        accepted = [(event, context) for event, context in events_context if not context.rejected]
        return await self._get_new_state(room_id, accepted, *args, **kwargs)
