"""The states at events of an old server's, as they would be here: on what it has, without storing.

The old server's states follow from what it accepted. Where that is not what this server would
accept, those of all later events differ.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence

from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.remembering import forget_oldest
from synapse_rejection_repair.domain.source import SourceEvent
from synapse_rejection_repair.domain.state import StateBook, StateRef, difference
from synapse_rejection_repair.ports_imports import Source

Resolve = Callable[[Sequence[StateIds]], Awaitable[StateIds]]
"""State resolution in one room."""

_REMEMBERED = 100_000
"""Of how many events, and how many sets of states, it is remembered that they differ."""


class ForecastStates:
    """Follows the states of one room where they differ from the old server's, parents first.

    Args:
        source: the old database.
        room_id: the room.
        resolve: Synapse's state resolution.
    """

    def __init__(self, source: Source, room_id: str, resolve: Resolve) -> None:
        self._source = source
        self._room_id = room_id
        self._resolve = resolve
        self._book = StateBook()
        self._after: OrderedDict[str, StateRef | None] = OrderedDict()
        self._merged: OrderedDict[frozenset[StateRef], StateRef] = OrderedDict()

    @property
    def differ(self) -> bool:
        """Whether the state after any event differs from the old server's."""
        return bool(self._after)

    async def before(self, event: SourceEvent, group: int | None) -> StateRef | None:
        """The state before an event, `None` if it is not known.

        Args:
            event: the event.
            group: the old server's state group before it, `None` if it has none.
        """
        prevs = event.prev_event_ids
        if all(self._after.get(p) is None for p in prevs):
            return group
        if any(p in self._after and self._after[p] is None for p in prevs):
            # At a gap the old server's own state is what counts.
            return group
        others = [p for p in prevs if p not in self._after]
        found = await self._source.events(self._room_id, others) if others else {}
        refs = {ref for p in prevs if (ref := self._after.get(p)) is not None}
        for prev in others:
            there = found.get(prev)
            if there is None or there.outlier or there.state_group is None:
                return group
            refs.add(there.state_group)
        return await self._merge(frozenset(refs))

    def follow(
        self, event: SourceEvent, before: StateRef | None, group: int | None, *, accepted: bool
    ) -> None:
        """Takes an event as stored here, accepted or not.

        Args:
            event: the event.
            before: the state before it here.
            group: the old server's state group before it.
            accepted: it is accepted here.
        """
        key = _key(event)
        differs = before != group or (key is not None and accepted == event.rejected)
        if before is None or not differs:
            return
        changed = key is not None and accepted
        after = self._book.derive(before, {key: event.event_id}) if changed and key else before
        self._remember(event.event_id, after)

    def leave_out(self, event_id: str) -> None:
        """Takes an event as not stored here: what follows it has a gap before it."""
        self._remember(event_id, None)

    def _remember(self, event_id: str, after: StateRef | None) -> None:
        self._after[event_id] = after
        forget_oldest(self._after, _REMEMBERED)

    async def entries(self, ref: StateRef, keys: Collection[StateKey]) -> StateIds:
        """Some entries of a state."""
        group, found = self._book.resolve(ref, keys)
        missing = [key for key in keys if key not in found]
        there = await self._source.entries(group, missing) if missing else {}
        return {**there, **{key: i for key, i in found.items() if i is not None}}

    async def _merge(self, refs: frozenset[StateRef]) -> StateRef:
        if len(refs) == 1:
            return next(iter(refs))
        if refs not in self._merged:
            # A derived one first: most often the others were part of it already.
            ordered = sorted(refs)
            states = [await self._full(ref) for ref in ordered]
            delta = difference(states[0], await self._resolve(states))
            self._merged[refs] = self._book.derive(ordered[0], delta)
            forget_oldest(self._merged, _REMEMBERED)
        return self._merged[refs]

    async def _full(self, ref: StateRef) -> StateIds:
        group, found = self._book.resolve(ref)
        state = {**await self._source.state(group), **found}
        return {key: i for key, i in state.items() if i is not None}


def _key(event: SourceEvent) -> StateKey | None:
    pdu = event.pdu or {}
    type_, key = pdu.get("type"), pdu.get("state_key")
    return (type_, key) if isinstance(type_, str) and isinstance(key, str) else None
