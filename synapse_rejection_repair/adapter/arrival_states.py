"""The states at events that arrive, of which some are not stored yet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable

from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer

from synapse_rejection_repair.adapter.contexts import same_state
from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.group_states import GroupStates
from synapse_rejection_repair.domain.model import StateIds
from synapse_rejection_repair.domain.remembering import forget_oldest

_REMEMBERED = 10_000
"""Of how many events the state group is kept in memory: more than follow each other in a batch."""


class ArrivalStates:
    """Gives events their contexts, from the state groups of the events before them.

    Args:
        hs: a homeserver process that writes events.
        dag: reads the state groups of stored events.
        groups: told of the state groups that are made.
    """

    def __init__(self, hs: HomeServer, dag: SynapseDag, groups: GroupStates) -> None:
        self._storage = hs.get_storage_controllers()
        self._store = hs.get_datastores().main
        self._state_handler = hs.get_state_handler()
        self._dag = dag
        self._known = groups
        self._groups: OrderedDict[str, int] = OrderedDict()
        self._unstored: set[str] = set()

    async def read(self, event_ids: Iterable[str]) -> None:
        """Remembers the state groups of those of some events that are stored."""
        unknown = [i for i in set(event_ids) if i not in self._groups]
        if unknown:
            self._remember(await self._dag.state_groups(unknown))

    def take(self, event_id: str, context: EventContext) -> None:
        """Takes an event as about to be stored, so that others can follow it."""
        rejected = bool(context.rejected)
        group = context.state_group_before_event if rejected else context.state_group
        self._unstored.add(event_id)
        if group is not None:
            self._remember({event_id: group})

    def stored(self) -> None:
        """All that was taken is stored."""
        self._unstored.clear()

    def failed(self) -> None:
        """Nothing of what was taken is stored after all."""
        for event_id in list(self._unstored):
            self.forget(event_id)

    def forget(self, event_id: str) -> None:
        """An event that was taken is not stored after all."""
        self._groups.pop(event_id, None)
        self._store._get_state_group_for_event.invalidate((event_id,))
        self._unstored.discard(event_id)

    def groups(self, event_ids: Collection[str]) -> dict[str, int]:
        """The state group at each of the events that has one."""
        return {i: self._groups[i] for i in event_ids if i in self._groups}

    def _remember(self, groups: dict[str, int]) -> None:
        self._groups.update(groups)
        forget_oldest(self._groups, _REMEMBERED)

    async def after(self, event: EventBase, groups: dict[str, int]) -> EventContext:
        """The context of an event that follows events with these state groups.

        A message on one state shares it, without a query. The rest is Synapse's
        `StateHandler.compute_event_context`.
        """
        distinct = set(groups.values())
        if len(distinct) == 1 and not event.is_state():
            return same_state(self._storage, distinct.pop())
        # Synapse looks the state before the event up by its prev events, some of which
        # may not be stored yet.
        for prev, group in groups.items():
            if prev in self._unstored:
                self._store._get_state_group_for_event.prefill((prev,), group)
        context = await self._state_handler.compute_event_context(event)
        self._known.learn(context)
        return context

    async def given(self, event: EventBase, state: StateIds) -> EventContext:
        """The context of an event whose state before it is given."""
        return await self._state_handler.compute_event_context(
            event, state_ids_before_event=dict(state), partial_state=False
        )
