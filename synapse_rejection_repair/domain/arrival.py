"""The order in which events arrive: parents first, also where their depths lie."""

from __future__ import annotations

from collections.abc import Collection

from synapse_rejection_repair.domain.source import Position


class WaitingRoom:
    """Events that were met before the events that they follow or cite.

    A history is read in the order of the depths that its events claim. Where a depth
    lies, a child is met before its parent; it waits here until its parents are decided.
    Only ids are kept, since what a hostile server makes wait may be much.
    """

    def __init__(self) -> None:
        self._waits_for: dict[str, set[str]] = {}
        self._positions: dict[str, Position] = {}
        self._children: dict[str, list[str]] = {}

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._waits_for

    def __len__(self) -> int:
        return len(self._waits_for)

    def wait(self, event_id: str, position: Position, parents: Collection[str]) -> None:
        """Lets an event wait for some parents, which have yet to be decided."""
        self._waits_for[event_id] = set(parents)
        self._positions[event_id] = position
        for parent in self._waits_for[event_id]:
            self._children.setdefault(parent, []).append(event_id)

    def decided(self, event_id: str) -> list[str]:
        """Takes a parent as decided; gives the events that need wait no longer, in order."""
        ready = []
        for child in self._children.pop(event_id, ()):
            waits_for = self._waits_for.get(child)
            if waits_for is None:
                continue
            waits_for.discard(event_id)
            if not waits_for:
                ready.append(child)
        return self._let_go(ready)

    def earliest(self) -> Position | None:
        """The first position of those that wait."""
        return min(self._positions.values(), default=None)

    def let_go_one(self) -> list[str]:
        """Lets the first of those that wait go, though its parents never came: a cycle."""
        first = min(self._waits_for, key=lambda i: self._positions[i], default=None)
        return [] if first is None else self._let_go([first])

    def _let_go(self, event_ids: Collection[str]) -> list[str]:
        ordered = sorted(event_ids, key=lambda i: self._positions[i])
        for event_id in ordered:
            del self._waits_for[event_id], self._positions[event_id]
        return ordered
