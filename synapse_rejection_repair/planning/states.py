"""States that a plan derives from stored ones, and what is asked of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from synapse_rejection_repair.domain.model import Node, StateIds, StateKey
from synapse_rejection_repair.domain.state import Delta, StateBook, StateRef, difference
from synapse_rejection_repair.ports import StateLookup, StateReader

Resolve = Callable[[Sequence[StateIds]], Awaitable[StateIds]]
"""State resolution in one room."""


class States:
    """Stored states and those derived from them. Each is read, compared and resolved but once.

    Args:
        stored: reads stored states.
        resolve: Synapse's state resolution.
    """

    def __init__(self, stored: StateReader, resolve: Resolve) -> None:
        self._stored = stored
        self._resolve = resolve
        self._book = StateBook()
        self._entries: dict[tuple[int, StateKey], str | None] = {}
        self._merged: dict[frozenset[StateRef], StateRef] = {}
        self._same: dict[tuple[StateRef, StateRef], bool] = {}

    def derive(self, base: StateRef, delta: Delta) -> StateRef:
        """A state that differs from another by some entries."""
        return self._book.derive(base, delta)

    def after(self, before: StateRef, node: Node) -> StateRef:
        """The state after an accepted event, by the state before it."""
        return before if node.key is None else self.derive(before, {node.key: node.event_id})

    async def full(self, ref: StateRef) -> StateIds:
        """All entries of a state."""
        group, found = self._book.resolve(ref)
        state = {**await self._stored.full(group), **found}
        return {k: v for k, v in state.items() if v is not None}

    def lookup(self, ref: StateRef) -> StateLookup:
        """What answers for some entries of a state."""

        async def lookup(keys: Collection[StateKey]) -> StateIds:
            group, found = self._book.resolve(ref, keys)
            missing = [k for k in keys if k not in found and (group, k) not in self._entries]
            if missing:
                entries = await self._stored.entries(group, missing)
                for key in missing:
                    self._entries[group, key] = entries.get(key)
            for key in keys:
                if key not in found:
                    found[key] = self._entries[group, key]
            return {k: v for k, v in found.items() if v is not None}

        return lookup

    async def equal(self, one: StateRef, other: StateRef) -> bool:
        """Whether two states have the same entries."""
        if one == other:
            return True
        if (one, other) not in self._same:
            self._same[one, other] = await self.full(one) == await self.full(other)
        return self._same[one, other]

    async def merge(self, refs: Collection[StateRef]) -> StateRef:
        """The state where branches with these states meet (at least one)."""
        distinct = frozenset(refs)
        if len(distinct) == 1:
            return next(iter(distinct))
        if distinct not in self._merged:
            ordered = sorted(distinct)
            states = [await self.full(ref) for ref in ordered]
            delta = difference(states[0], await self._resolve(states))
            self._merged[distinct] = self.derive(ordered[0], delta)
        return self._merged[distinct]
