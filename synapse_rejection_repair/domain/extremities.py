"""Which events nothing accepted follows: the forward extremities after a repair."""

from __future__ import annotations

from collections.abc import Collection, Iterable

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
        bad: those of them that cannot be one: rejected, missing or outliers.
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
