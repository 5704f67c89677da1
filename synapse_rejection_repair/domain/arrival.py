"""The order in which events arrive: parents first, also where their depths lie."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from heapq import heappop, heappush

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
        # Those that wait, and some that do no more: to go through all for each page takes long.
        self._in_order: list[tuple[Position, str]] = []
        self._ready: deque[str] = deque()

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._waits_for

    def __len__(self) -> int:
        return len(self._waits_for)

    def any_ready(self) -> bool:
        """Whether there are events that need wait no longer, and were not given yet."""
        return bool(self._ready)

    def wait(self, event_id: str, position: Position, parents: Collection[str]) -> None:
        """Lets an event wait for some parents, which have yet to be decided."""
        self._waits_for[event_id] = set(parents)
        self._positions[event_id] = position
        heappush(self._in_order, (position, event_id))
        for parent in self._waits_for[event_id]:
            self._children.setdefault(parent, []).append(event_id)

    def decided(self, event_id: str) -> None:
        """Takes a parent as decided: what waited for it alone is ready."""
        ready = []
        for child in self._children.pop(event_id, ()):
            waits_for = self._waits_for.get(child)
            if waits_for is None:
                continue
            waits_for.discard(event_id)
            if not waits_for:
                ready.append(child)
        for child in sorted(ready, key=lambda i: self._positions[i]):
            self._let_go(child)

    def ready(self, limit: int) -> list[str]:
        """The next events that need wait no longer, parents first; they are decided by that.

        Args:
            limit: how many at most.
        """
        given: list[str] = []
        while self._ready and len(given) < limit:
            event_id = self._ready.popleft()
            given.append(event_id)
            self.decided(event_id)
        return given

    def earliest(self) -> Position | None:
        """The first position of those that wait."""
        first = self._first()
        return None if first is None else self._positions[first]

    def let_go_one(self) -> None:
        """Lets the first of those that wait go, though its parents never came: a cycle."""
        first = self._first()
        if first is not None:
            self._let_go(first)

    def _first(self) -> str | None:
        while self._in_order:
            event_id = self._in_order[0][1]
            if event_id in self._waits_for:
                return event_id
            heappop(self._in_order)
        return None

    def _let_go(self, event_id: str) -> None:
        del self._waits_for[event_id], self._positions[event_id]
        self._ready.append(event_id)
