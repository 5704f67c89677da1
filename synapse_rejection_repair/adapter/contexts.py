"""The state before and after events that are about to be stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from synapse.api.constants import EventTypes
from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer
from synapse.storage.controllers import StorageControllers

from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.domain.model import StateIds
from synapse_rejection_repair.ports import Checker, StateReader


def same_state(storage: StorageControllers, group: int) -> EventContext:
    """The context of an event that changes no state, which takes no query.

    Args:
        storage: Synapse's.
        group: the state group before the event.
    """
    return EventContext.with_state(
        storage=storage,
        state_group=group,
        state_group_before_event=group,
        state_delta_due_to_event={},
        partial_state=False,
        state_group_deltas={},
    )


class EventContexts:
    """Computes contexts, also of events whose prev events are in the same batch.

    Args:
        hs: a homeserver process that writes events.
        dag: reads rooms.
        states: resolves states.
    """

    def __init__(self, hs: HomeServer, dag: SynapseDag, states: StateReader) -> None:
        self._storage = hs.get_storage_controllers()
        self._store = hs.get_datastores().main
        self._state_handler = hs.get_state_handler()
        self._dag = dag
        self._states = states

    async def groups(self, event: EventBase, known: Mapping[str, int]) -> dict[str, int]:
        """The state groups of an event's prev events, as far as they are here.

        Args:
            event: the event.
            known: the state groups of events that are not stored yet, by event id.
        """
        groups = {p: known[p] for p in event.prev_event_ids() if p in known}
        others = [p for p in event.prev_event_ids() if p not in known]
        return {**groups, **await self._dag.state_groups(others)} if others else groups

    async def merges(self, event: EventBase, known: Mapping[str, int]) -> bool:
        """Whether the states after an event's prev events have to be resolved."""
        return len(set((await self.groups(event, known)).values())) > 1

    async def of(
        self,
        event: EventBase,
        known: Mapping[str, int],
        checker: Checker,
        borrowed: StateIds | None = None,
    ) -> EventContext:
        """The state before and after an event, from its prev events.

        Args:
            event: the event.
            known: the state groups of events that are not stored yet, by event id. They
                are made known to Synapse: see `forget`.
            checker: which events count as accepted.
            borrowed: the state before it, where that does not follow from its prev events.
        """
        if borrowed is not None:
            return await self._state_handler.compute_event_context(
                event, state_ids_before_event=dict(borrowed), partial_state=False
            )
        if event.internal_metadata.is_outlier():
            return EventContext.for_outlier(self._storage)
        prevs = list(event.prev_event_ids())
        groups = await self.groups(event, known)
        if all(p in groups for p in prevs) and (prevs or event.type == EventTypes.Create):
            return await self.compute(event, groups, known)

        # Events before it are missing. Synapse asked another server for the state at the
        # gap when it received the event, and that is what it stored. It is stored again: what
        # Synapse has resolved with the old group, it may have resolved with events in it that
        # were rejected then, and every process remembers that.
        stored = await self._dag.state_groups([event.event_id])
        distinct = {*groups.values(), *stored.values()}
        states = [await self._states.full(group) for group in sorted(distinct)]
        version = event.room_version.identifier
        before = (
            states[0]
            if len(states) == 1
            else await self._states.resolve(event.room_id, version, states, checker)
        )
        return await self._state_handler.compute_event_context(
            event, state_ids_before_event=dict(before), partial_state=False
        )

    async def compute(
        self, event: EventBase, groups: Mapping[str, int], known: Mapping[str, int]
    ) -> EventContext:
        """The state before and after an event all of whose prev events are here.

        Args:
            event: the event.
            groups: the state groups of its prev events, by event id.
            known: those of events that are not stored yet.
        """
        distinct = set(groups.values())
        if len(distinct) == 1 and not event.is_state():
            return same_state(self._storage, distinct.pop())
        # Synapse looks the state before the event up by its prev events, some of which
        # are in the same batch and not stored yet.
        for prev in event.prev_event_ids():
            if prev in known:
                self._store._get_state_group_for_event.prefill((prev,), known[prev])
        return await self._state_handler.compute_event_context(event)

    def forget(self, event_ids: Collection[str]) -> None:
        """Takes back what Synapse was told of events that were not stored after all."""
        for event_id in event_ids:
            self._store._get_state_group_for_event.invalidate((event_id,))
