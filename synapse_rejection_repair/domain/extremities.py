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
    events = list(received)
    candidates = (set(stored) - set(bad)) | {n.event_id for n in events}
    candidates.difference_update(p for n in events for p in n.prev_event_ids)
    candidates.difference_update(followed)
    return frozenset(candidates)
