"""Telling the few roots of an incident from the cascade that only follows them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

import attr

from synapse_rejection_repair.domain.dag import components, ids_in_order
from synapse_rejection_repair.domain.model import Node

MOST_ROOTS = 50
"""Of how many roots at most an event is counted in the cascade.

An honest event cites hardly more than its sender's membership and the power levels. Whoever
forges some of their own could have each follow all of thousands.
"""

_Roots = tuple[int, ...]
"""Roots, by the order in which they were found."""


@attr.s(slots=True, auto_attribs=True)
class Cascade:
    """The rejected events that cite a root, directly or through others.

    Attributes:
        count: how many there are, without the root.
        first_ts: the earliest `origin_server_ts` among them, in milliseconds.
        last_ts: the latest.
        servers: how many of them each sender's server sent.
    """

    count: int = 0
    first_ts: int | None = None
    last_ts: int | None = None
    servers: dict[str, int] = attr.Factory(dict)

    def add(self, node: Node) -> None:
        """Counts one more event of the cascade."""
        ts = node.origin_server_ts
        self.count += 1
        self.first_ts = ts if self.first_ts is None else min(self.first_ts, ts)
        self.last_ts = ts if self.last_ts is None else max(self.last_ts, ts)
        self.servers[node.server] = self.servers.get(node.server, 0) + 1


def cited(node: Node, rejected: Container[str]) -> list[str]:
    """The rejected events among an event's auth events, in the order in which it cites them."""
    return [a for a in dict.fromkeys(node.auth_event_ids) if a in rejected and a != node.event_id]


def cascades(rejected: Mapping[str, Node]) -> dict[str, Cascade]:
    """The roots of a room's rejections with the cascade behind each, oldest root first.

    A root is a rejected event that cites no rejected event. An event that follows
    several roots is counted in the cascade of each, of the first `MOST_ROOTS` of them. A cycle
    of rejected events, which only forged ids can claim, counts as one cascade behind its
    oldest event, so that nothing can hide in it.

    Args:
        rejected: all rejected events of one room, by id.
    """
    ordered = ids_in_order(rejected)
    counts = _Counts()
    later: list[str] = []
    for event_id in ordered:
        parents = cited(rejected[event_id], rejected)
        if counts.know(parents):
            counts.take([rejected[event_id]], parents)
        else:
            later.append(event_id)
    left = frozenset(later)
    for component in components(later, lambda i: cited(rejected[i], left)):
        nodes = sorted((rejected[i] for i in component), key=lambda n: n.stream_ordering)
        among = {node.event_id for node in nodes}
        counts.take(nodes, [p for n in nodes for p in cited(n, rejected) if p not in among])
    found = counts.found
    return {event_id: found[event_id] for event_id in ordered if event_id in found}


class _Counts:
    """The cascades as far as they are counted, parents first."""

    def __init__(self) -> None:
        self.found: dict[str, Cascade] = {}
        self._roots: list[Cascade] = []
        # Few distinct ones occur (most events follow the same roots), so they are shared.
        self._shared: dict[_Roots, _Roots] = {}
        self._behind: dict[str, _Roots] = {}

    def know(self, event_ids: Iterable[str]) -> bool:
        """Whether all of the events are counted."""
        return all(event_id in self._behind for event_id in event_ids)

    def take(self, nodes: Sequence[Node], parents: Iterable[str]) -> None:
        """Counts events, which depend on each other if they are several.

        Args:
            nodes: the events, the oldest first.
            parents: the rejected events that they cite, but for each other; all counted.
        """
        roots = _union([self._behind[parent] for parent in parents])
        followers = nodes
        if not roots:
            oldest, *followers = nodes
            self.found[oldest.event_id] = Cascade()
            self._roots.append(self.found[oldest.event_id])
            roots = (len(self._roots) - 1,)
        roots = self._shared.setdefault(roots, roots)
        for root in roots:
            for node in followers:
                self._roots[root].add(node)
        self._behind.update((node.event_id, roots) for node in nodes)


def _union(found: Sequence[_Roots]) -> _Roots:
    if not found or all(roots is found[0] for roots in found):
        return found[0] if found else ()
    return tuple(sorted({root for roots in found for root in roots})[:MOST_ROOTS])


def largest(found: Mapping[str, Cascade], most: int) -> dict[str, Cascade]:
    """The roots with the largest cascades, in the order in which they are given.

    Args:
        found: all roots, each with its cascade.
        most: how many of them at most.
    """
    if len(found) <= most:
        return dict(found)
    chosen = set(sorted(found, key=lambda root: -found[root].count)[:most])
    return {root: cascade for root, cascade in found.items() if root in chosen}
