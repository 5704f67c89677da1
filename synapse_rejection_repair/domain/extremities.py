"""Which events nothing accepted follows: the forward extremities after a repair."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from synapse_rejection_repair.domain.model import Node


def forward_extremities(
    stored: Collection[str],
    bad: Collection[str],
    received: Iterable[Node],
    followed: Collection[str],
) -> frozenset[str]:
    """The forward extremities that the room has once the events are received.

    Mirrors `EventsPersistenceStorageController._calculate_new_extremities`
    (read in Synapse 1.151.0 and 1.163.2).

    Args:
        stored: the forward extremities as stored.
        bad: those of them that cannot be one: rejected, soft-failed, missing, outliers, or
            followed by accepted events.
        received: the events that are accepted, without outliers and soft-failed ones.
        followed: those of the stored extremities and received events that an accepted
            event in the database follows.
    """
    candidates = set(stored) - set(bad)
    before: set[str] = set()
    for node in received:
        candidates.add(node.event_id)
        before.update(node.prev_event_ids)
    candidates -= before
    candidates.difference_update(followed)
    return frozenset(candidates)


def accepted_behind(starts: Collection[str], suspects: Mapping[str, Node]) -> set[str]:
    """The events that are reached first, backwards, from where nothing can be built on.

    Args:
        starts: the events to start from.
        suspects: the events that are passed on the way, by id.
    """
    seen = set(starts)
    stack = list(seen)
    while stack:
        node = suspects.get(stack.pop())
        before = set(node.prev_event_ids if node else ()) - seen
        seen |= before
        stack += before
    return seen - suspects.keys()


class MovingExtremities:
    """The forward extremities, as accepted events move them one after the other.

    Args:
        stored: the forward extremities before the first of these events.
        followed: the events that an accepted event in the database follows.
    """

    def __init__(self, stored: Collection[str], followed: Collection[str]) -> None:
        self.now = set(stored)
        self._followed = followed

    def accept(self, node: Node) -> None:
        """Takes an event as accepted."""
        self.now.difference_update(node.prev_event_ids)
        if node.event_id not in self._followed:
            self.now.add(node.event_id)
