"""Entries of the states at events that arrive, without reading again what has not changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from synapse.events.snapshot import EventContext
from synapse.server import HomeServer
from synapse.types.state import StateFilter

from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.remembering import forget_oldest

_REMEMBERED = 5_000
"""Of how many state groups, and how many entries of them, something is kept in memory."""


class GroupStates:
    """Follows state groups back to where an entry was last changed.

    Most state groups of a room differ from the one before in a topic or in one membership.
    Synapse's own cache asks the database for each of them anew.

    Args:
        hs: the homeserver.
    """

    def __init__(self, hs: HomeServer) -> None:
        self._state = hs.get_storage_controllers().state
        self._changes: OrderedDict[int, tuple[int, StateIds]] = OrderedDict()
        self._entries: OrderedDict[tuple[int, StateKey], str | None] = OrderedDict()

    def learn(self, context: EventContext) -> None:
        """Remembers how the state groups of a context differ from those before them."""
        for (before, after), changes in context.state_group_deltas.items():
            # Where an event changes nothing, both are one.
            if before < after:
                self._changes[after] = (before, changes)
        forget_oldest(self._changes, _REMEMBERED)

    async def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        """Some entries of a state.

        Args:
            group: its state group.
            keys: the entries; those that it has not are left out.
        """
        unknown: dict[int, list[StateKey]] = {}
        for key in keys:
            since = self._since(group, key)
            if (since, key) not in self._entries:
                unknown.setdefault(since, []).append(key)
        for since, some in unknown.items():
            found = await self._state.get_state_ids_for_group(since, StateFilter.from_types(some))
            for key in some:
                self._entries[since, key] = found.get(key)
        state = {}
        for key in keys:
            value = self._entries[self._since(group, key), key]
            self._entries[group, key] = value
            if value is not None:
                state[key] = value
        forget_oldest(self._entries, _REMEMBERED)
        return state

    def _since(self, group: int, key: StateKey) -> int:
        """The group whose entry is the same, and known or else to be read."""
        while (group, key) not in self._entries and group in self._changes:
            before, changes = self._changes[group]
            if key in changes:
                self._entries[group, key] = changes[key]
            else:
                group = before
        return group
