"""Telling the few roots of an incident from the cascade that only follows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attr

from synapse_rejection_repair.domain.dag import in_order
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
    for node in in_order(rejected):
        roots = _union(behind.get(parent) for parent in cited(node, rejected))
        if not roots:
            found[node.event_id] = Cascade()
            roots = frozenset((node.event_id,))
        else:
            for root in roots:
                found[root].add(node)
        behind[node.event_id] = shared.setdefault(roots, roots)
    return found


def _union(sets: Iterable[frozenset[str] | None]) -> frozenset[str]:
    found = [s for s in sets if s]
    if not found:
        return frozenset()
    return found[0] if all(s is found[0] for s in found) else frozenset().union(*found)
