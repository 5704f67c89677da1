"""The forward extremities that a room has once a plan is carried out."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attr

from synapse_rejection_repair.domain.extremities import accepted_behind, forward_extremities
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.ports import Clock, DagReader


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Ends:
    """Finds where a room's DAG ends.

    Attributes:
        facts: the room as it is.
        followed: the events that an accepted event in the database follows.
        dag: the database.
        clock: lets the server breathe.
    """

    facts: RoomFacts
    followed: Collection[str]
    dag: DagReader
    clock: Clock

    async def after(self, received: Iterable[Node]) -> frozenset[str]:
        """The forward extremities once some events are accepted.

        Args:
            received: the events, without outliers and soft-failed ones.
        """
        stored, bad = self.facts.extremities, self.facts.bad_extremities
        found = await self.clock.in_thread(
            forward_extremities, stored, bad, received, self.followed
        )
        return found if found or not stored else await self._nearest_accepted()

    async def _nearest_accepted(self) -> frozenset[str]:
        """Where the room goes on if none of its forward extremities can be one."""
        behind = accepted_behind(self.facts.bad_extremities, self.facts.suspects)
        newest = await self.dag.newest_accepted(self.facts.room_id)
        for candidates in (behind, set(newest)):
            standing = candidates & (await self.dag.state_groups(candidates)).keys()
            ends = standing - await self.dag.followed(standing)
            if ends:
                return frozenset(ends)
        return self.facts.extremities
