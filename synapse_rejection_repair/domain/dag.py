"""The order in which events have to be taken, and who depends on whom."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping

from synapse_rejection_repair.domain.model import Node


def in_order(nodes: Mapping[str, Node]) -> Iterator[Node]:
    """Yields the events so that each comes after those that it follows or cites.

    Among events that do not depend on each other the one that this server stored
    first comes first: the order in which it would have taken them without the error.
    Events on a claimed cycle (possible only in room versions 1 and 2, whose ids are
    no hashes) come last, in the order in which they were stored.

    Args:
        nodes: the events by id; edges to events outside it are ignored.
    """
    waiting_for: dict[str, int] = {}
    children: dict[str, list[str]] = {}
    for node in nodes.values():
        parents = {p for p in (*node.prev_event_ids, *node.auth_event_ids) if p in nodes}
        parents.discard(node.event_id)
        waiting_for[node.event_id] = len(parents)
        for parent in parents:
            children.setdefault(parent, []).append(node.event_id)

    ready = [
        (nodes[event_id].stream_ordering, event_id)
        for event_id, count in waiting_for.items()
        if not count
    ]
    heapq.heapify(ready)
    while ready:
        _, event_id = heapq.heappop(ready)
        del waiting_for[event_id]
        yield nodes[event_id]
        for child in children.pop(event_id, ()):
            waiting_for[child] -= 1
            if not waiting_for[child]:
                heapq.heappush(ready, (nodes[child].stream_ordering, child))

    yield from sorted(
        (nodes[event_id] for event_id in waiting_for), key=lambda n: n.stream_ordering
    )


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
