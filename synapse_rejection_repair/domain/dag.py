"""The order in which events have to be taken, and who depends on whom."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping

from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.domain.nodes import Links, NodeTable


def in_order(nodes: Mapping[str, Node]) -> Iterator[Node]:
    """Yields the events so that each comes after those that it follows or cites.

    Among events that do not depend on each other the one that this server stored
    first comes first: the order in which it would have taken them without the error.
    Events on a claimed cycle (possible only in room versions 1 and 2, whose ids are
    no hashes) come last, in the order in which they were stored.

    Args:
        nodes: the events by id; edges to events outside it are ignored.
    """
    return (nodes[event_id] for event_id in ids_in_order(nodes))


def ids_in_order(nodes: Mapping[str, Node]) -> list[str]:
    """The ids of the events, in the order of `in_order`."""
    table = NodeTable.of(nodes)
    return [table.id_at(row) for row in _rows_in_order(table)]


def _rows_in_order(table: NodeTable) -> Iterator[int]:
    rows = range(len(table))
    waiting_for = array("i", bytes(4 * len(table)))
    children = Links(len(table))
    for row in rows:
        parents = table.parents_at(row)
        waiting_for[row] = len(parents)
        for parent in parents:
            children.add(parent, row)

    ready: list[tuple[int, str, int]] = []
    for row in rows:
        if not waiting_for[row]:
            heapq.heappush(ready, (table.ordering_at(row), table.id_at(row), row))
    while ready:
        *_, row = heapq.heappop(ready)
        yield row
        for child in children.of(row):
            waiting_for[child] -= 1
            if not waiting_for[child]:
                heapq.heappush(ready, (table.ordering_at(child), table.id_at(child), child))

    yield from sorted((row for row in rows if waiting_for[row] > 0), key=table.ordering_at)


def descendants(starts: Collection[str], edges: Mapping[str, Iterable[str]]) -> set[str]:
    """The starts, and every event that is reached from them along the edges.

    Args:
        starts: the event ids to start from.
        edges: the event ids that depend on each event id.
    """
    seen = set(starts)
    stack = list(seen)
    while stack:
        for child in edges.get(stack.pop(), ()):
            if child not in seen:
                seen.add(child)
                stack.append(child)
    return seen


def components(
    event_ids: Iterable[str], parents: Callable[[str], Iterable[str]]
) -> Iterator[list[str]]:
    """Yields the strongly connected components of a graph, parents first: Tarjan's algorithm.

    Of events, several are in one only where they claim a cycle.

    Args:
        event_ids: the events.
        parents: the events, of these, that an event depends on.
    """
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_: dict[str, None] = {}

    def begin(event_id: str) -> tuple[str, Iterator[str]]:
        number[event_id] = lowest[event_id] = len(number)
        open_[event_id] = None
        return event_id, iter(parents(event_id))

    for start in event_ids:
        path = [] if start in number else [begin(start)]
        while path:
            event_id, rest = path[-1]
            for parent in rest:
                if parent not in number:
                    path.append(begin(parent))
                    break
                if parent in open_:
                    lowest[event_id] = min(lowest[event_id], number[parent])
            else:
                path.pop()
                if path:
                    child = path[-1][0]
                    lowest[child] = min(lowest[child], lowest[event_id])
                if lowest[event_id] == number[event_id]:
                    component = []
                    while event_id in open_:
                        component.append(open_.popitem()[0])
                    yield component


class Frontier:
    """A search along edges of which some are known, and others have to be looked up.

    Args:
        follow: the event ids behind an event id, as far as they are known.
    """

    def __init__(self, follow: Callable[[str], Iterable[str]]) -> None:
        self._follow = follow
        self._seen: set[str] = set()
        self._waiting: list[str] = []

    def add(self, event_ids: Iterable[str], looked_up: Container[str] = ()) -> None:
        """Goes on from events that were found, along all known edges.

        Args:
            event_ids: the events.
            looked_up: those behind which there is nothing to be looked up any more.
        """
        stack = list(event_ids)
        while stack:
            event_id = stack.pop()
            if event_id not in self._seen:
                self._seen.add(event_id)
                if event_id not in looked_up:
                    self._waiting.append(event_id)
                stack.extend(self._follow(event_id))

    def take(self, size: int) -> list[str]:
        """Some events behind which nothing was looked up yet; none once all have been taken."""
        taken = self._waiting[-size:]
        del self._waiting[-size:]
        return taken
