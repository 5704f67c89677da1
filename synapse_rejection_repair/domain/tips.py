"""Which events were a room's forward extremities at times that are gone."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping

import attr

from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.domain.sorting import sorted_in_pieces

_STEPS = 500
"""How many events one step towards a position passes at most."""

FOREVER = 2**63
"""A position in the stream that nothing reaches."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Spell:
    """The time for which nothing accepted followed an event, in stream orderings.

    Attributes:
        since: where the event itself arrived.
        until: where the first event that follows it arrived.
    """

    since: int
    until: int = FOREVER


def with_received(
    stored: Mapping[str, Spell], standing: Collection[str], received: Iterable[Node]
) -> dict[str, Spell]:
    """The spells as they would have been, had some events been accepted when they arrived.

    Args:
        stored: the spells by what is stored, for all that something accepted follows.
        standing: those of them that were accepted then.
        received: the events, with the stream orderings that they had then. They are gone
            through twice.
    """
    spells = {event_id: stored[event_id] for event_id in standing}
    for node in received:
        until = stored[node.event_id].until if node.event_id in stored else FOREVER
        spells[node.event_id] = Spell(node.stream_ordering, until)
    for node in received:
        since = spells[node.event_id].since
        for prev in node.prev_event_ids:
            if prev in spells and since < spells[prev].until:
                spells[prev] = attr.evolve(spells[prev], until=since)
    return spells


class Tips:
    """A room's forward extremities, from one time to the next.

    Args:
        spells: the events that may be among them, each with its time.
    """

    def __init__(self, spells: Mapping[str, Spell]) -> None:
        self._spells = dict(spells)
        # What is sorted is a heap.
        self._coming = sorted_in_pieces((spell.since, i) for i, spell in spells.items())
        self._now: set[str] = set()

    def at(self, position: int) -> frozenset[str]:
        """What an event that arrives at a position finds; to be asked from the past onwards."""
        while not self.reach(position):
            pass
        return frozenset(self._now)

    def reach(self, position: int) -> bool:
        """Goes on towards a position, no further than takes no time; whether it is reached."""
        for _ in range(_STEPS):
            if not self._coming or self._coming[0][0] >= position:
                break
            self._now.add(heapq.heappop(self._coming)[1])
        self._now = {i for i in self._now if self._spells[i].until >= position}
        return not self._coming or self._coming[0][0] >= position

    def accept(self, node: Node, until: int = FOREVER) -> None:
        """Takes an event as accepted when it arrived, and as followed at a later position."""
        since = node.stream_ordering
        self._spells[node.event_id] = Spell(since, until)
        heapq.heappush(self._coming, (since, node.event_id))
        for prev in node.prev_event_ids:
            known = self._spells.get(prev)
            if known is not None and since < known.until:
                self._spells[prev] = attr.evolve(known, until=since)
