"""The state at events that are only thought of as accepted: deltas over stored state groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attr

from synapse_rejection_repair.domain.model import StateIds, StateKey, state_changes

StateRef = int
"""A state: positive is a state group of Synapse's, negative one that only a plan knows."""

_FLATTEN_AFTER = 50
"""How many deltas are stacked before they are merged into one, to bound look-ups."""

Delta = Mapping[StateKey, "str | None"]
"""What a state changes against its base; `None` takes an entry away."""


def difference(base: StateIds, state: StateIds) -> Delta:
    """What turns one state into another, sorted by type and state key."""
    return {(c.type, c.state_key): c.after for c in state_changes(base, state)}


def replaced(event_id: str, entry: str | None, noted: str | None) -> str | None:
    """The event that a state event replaces, `None` if it is the first of its key.

    Args:
        event_id: the state event.
        entry: what the state before it holds under its key. Where only the state after it is
            known, that is taken for it, and tells nothing.
        noted: what was found when the event was stored.
    """
    return noted if entry == event_id else entry


@attr.s(frozen=True, slots=True, auto_attribs=True)
class _Derived:
    base: StateRef
    delta: Delta
    hops: int


class StateBook:
    """States derived from others by small deltas, none of which is ever written.

    Mirrors how Synapse stores state groups (`state_groups_state` with
    `state_group_edges`), in memory.
    """

    def __init__(self) -> None:
        self._derived: dict[StateRef, _Derived] = {}
        self._known: dict[tuple[StateRef, StateKey, str | None], StateRef] = {}

    def derive(self, base: StateRef, delta: Delta) -> StateRef:
        """A state that differs from `base` by `delta` (the base itself if by nothing)."""
        if not delta:
            return base
        single = (base, *next(iter(delta.items()))) if len(delta) == 1 else None
        if single is not None and single in self._known:
            return self._known[single]

        parent = self._derived.get(base)
        if parent is not None and parent.hops >= _FLATTEN_AFTER:
            group, below = self.resolve(base)
            entry = _Derived(group, {**below, **delta}, 1)
        else:
            entry = _Derived(base, dict(delta), parent.hops + 1 if parent else 1)
        ref = -len(self._derived) - 1
        self._derived[ref] = entry
        if single is not None:
            self._known[single] = ref
        return ref

    def resolve(
        self, ref: StateRef, keys: Iterable[StateKey] | None = None
    ) -> tuple[int, dict[StateKey, str | None]]:
        """Reduces a state to a stored state group and the entries that differ from it.

        Args:
            ref: the state.
            keys: the entries asked for, `None` for all.

        Returns:
            The state group's id, and the differing entries (`None` for one taken away).
        """
        wanted = None if keys is None else set(keys)
        found: dict[StateKey, str | None] = {}
        while (entry := self._derived.get(ref)) is not None:
            for key, event_id in entry.delta.items():
                if key not in found and (wanted is None or key in wanted):
                    found[key] = event_id
            ref = entry.base
        return ref, found
