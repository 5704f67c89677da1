"""Telling the few roots of an incident from the cascade that only follows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attr

from synapse_rejection_repair.domain.dag import descendants, ids_in_order
from synapse_rejection_repair.domain.model import Node


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


def cited(node: Node, rejected: Mapping[str, object]) -> list[str]:
    """The rejected events among an event's auth events, in the order in which it cites them."""
    return [a for a in dict.fromkeys(node.auth_event_ids) if a in rejected and a != node.event_id]


def cascades(rejected: Mapping[str, Node]) -> dict[str, Cascade]:
    """The roots of a room's rejections with the cascade behind each, oldest root first.

    A root is a rejected event that cites no rejected event. An event that follows
    several roots is counted in the cascade of each. A cycle of rejected events, which
    only forged ids can claim, counts as one cascade behind its oldest event, so that
    nothing can hide in it.

    Args:
        rejected: all rejected events of one room, by id.
    """
    found: dict[str, Cascade] = {}
    # Few distinct sets occur (most events follow the same roots), so they are shared.
    shared: dict[frozenset[str], frozenset[str]] = {}
    behind: dict[str, frozenset[str]] = {}
    cyclic: dict[str, Node] = {}
    ordered = ids_in_order(rejected)
    for event_id in ordered:
        node = rejected[event_id]
        parents = cited(node, rejected)
        if any(parent not in behind for parent in parents):
            cyclic[event_id] = node
            continue
        roots = _union(behind[parent] for parent in parents)
        if not roots:
            found[event_id] = Cascade()
            roots = frozenset((event_id,))
        else:
            for root in roots:
                found[root].add(node)
        behind[event_id] = shared.setdefault(roots, roots)

    for root, followers in _cycles(cyclic, behind).items():
        cascade = found.setdefault(root, Cascade())
        for node in followers:
            cascade.add(node)
    return {event_id: found[event_id] for event_id in ordered if event_id in found}


def _cycles(
    cyclic: Mapping[str, Node], behind: Mapping[str, frozenset[str]]
) -> dict[str, list[Node]]:
    """Events on or behind claimed cycles, by the root, or the oldest event, that they follow."""
    citing: dict[str, list[str]] = {}
    starts: dict[str, list[str]] = {}
    for node in cyclic.values():
        for parent in cited(node, cyclic):
            citing.setdefault(parent, []).append(node.event_id)
        for root in _union(behind[parent] for parent in cited(node, behind)):
            starts.setdefault(root, []).append(node.event_id)

    reached = {root: descendants(following, citing) for root, following in starts.items()}
    seen = set().union(*reached.values())
    for event_id in sorted(cyclic, key=lambda i: cyclic[i].stream_ordering):
        if event_id not in seen:
            root = _oldest_of_cycle(event_id, cyclic, citing)
            found = descendants((root,), citing)
            seen |= found
            reached[root] = found - {root}
    return {root: [cyclic[i] for i in sorted(ids)] for root, ids in reached.items()}


def _oldest_of_cycle(
    event_id: str, cyclic: Mapping[str, Node], citing: Mapping[str, list[str]]
) -> str:
    """The oldest event of a cycle that an event is on, or behind."""
    passed: set[str] = set()
    while event_id not in passed:
        passed.add(event_id)
        event_id = cited(cyclic[event_id], cyclic)[0]
    parents = {i: cited(cyclic[i], cyclic) for i in descendants((event_id,), citing)}
    cycle = descendants((event_id,), parents) & parents.keys()
    return min(cycle, key=lambda i: cyclic[i].stream_ordering)


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    found = list(sets)
    if not found:
        return frozenset()
    return found[0] if all(s is found[0] for s in found) else frozenset().union(*found)
