"""Check 6 of events that this server rejected, as it would have been made on receipt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set

from synapse_rejection_repair.domain.model import Node, StateIds, StateKey
from synapse_rejection_repair.domain.state import StateRef
from synapse_rejection_repair.planning.event_states import EventStates
from synapse_rejection_repair.ports import Checker, DagReader


class CurrentStateCheck:
    """Checks events against the room's current state as this server knew it then.

    Mirrors `FederationEventHandler._check_for_soft_fail` (read in Synapse 1.151.0
    and 1.163.2).

    Args:
        checker: runs the rules.
        events: the states of events.
        nodes: the events that the plan knows.
        dag: knows when others were stored.
    """

    def __init__(
        self,
        checker: Checker,
        events: EventStates,
        nodes: Mapping[str, Node],
        dag: DagReader,
    ) -> None:
        self._checker = checker
        self._events = events
        self._nodes = nodes
        self._dag = dag
        self._orderings: dict[str, int] = {}

    async def fails(
        self, node: Node, before: StateRef, extremities: Set[str], *, borrowed: bool
    ) -> bool:
        """Whether an event that passes all other checks would have been soft-failed.

        Args:
            node: the event.
            before: the state before it.
            extremities: the forward extremities that the room would have had.
            borrowed: the state before it is another server's.
        """
        if extremities == set(node.prev_event_ids):
            return False
        refs = {ref for tip in extremities if (ref := self._events.after(tip)) is not None}
        if borrowed:
            # What this server took for the current state is part of the error.
            refs.add(before)
        if refs <= {before}:
            return False
        then = await self._then(node, before, refs)
        if then is None:
            return False

        async def lookup(wanted: Collection[StateKey]) -> StateIds:
            return {k: then[k] for k in wanted if k in then}

        return await self._checker.soft_fails(node, lookup) is not None

    async def _then(
        self, node: Node, before: StateRef, current: Collection[StateRef]
    ) -> StateIds | None:
        """What the rules look at, as it was when the event was stored.

        State that arrived here after the event does not count: without the error the event
        would have been received before it.

        Returns:
            The entries; `None` if they are those of the state before the event.
        """
        states, keys = self._events.states, self._checker.auth_keys(node)
        known = await states.lookup(before)(keys)
        for ref in current:
            if await states.lookup(ref)(keys) != known:
                break
        else:
            return None
        now = await states.lookup(await states.merge(current))(keys)
        if now == known:
            return None
        changed = {key: event_id for key, event_id in now.items() if known.get(key) != event_id}
        here = await self._stored_before(node.stream_ordering, changed.values())
        return {**known, **{key: event_id for key, event_id in changed.items() if event_id in here}}

    async def _stored_before(self, position: int, event_ids: Collection[str]) -> set[str]:
        others = [i for i in event_ids if i not in self._nodes and i not in self._orderings]
        if others:
            self._orderings.update(await self._dag.stream_orderings(others))
        return {i for i in event_ids if self._ordering(i, position) < position}

    def _ordering(self, event_id: str, unknown: int) -> int:
        if event_id in self._nodes:
            return self._nodes[event_id].stream_ordering
        return self._orderings.get(event_id, unknown)
