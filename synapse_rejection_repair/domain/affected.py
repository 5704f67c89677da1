"""Which accepted events may have another state once a repair is through."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attr

from synapse_rejection_repair.domain.dag import Frontier
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.domain.nodes import NodeTable


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Behind:
    """Accepted events that follow others.

    Attributes:
        nodes: the events.
        looked_up: the events all of whose accepted children are among them.
    """

    nodes: Collection[Node]
    looked_up: Collection[str]


class Affected:
    """The accepted events that a plan has to look at, found by following the room's edges.

    They are those behind all that has another state, or is itself in another state. The edges
    between rejected events are known; those to accepted events have to be looked up.

    Args:
        facts: the room as it is.
        chosen: the suspects and soft-failed events that the repair may store anew.
        expected: the events before which another server's state is taken.
    """

    def __init__(
        self, facts: RoomFacts, chosen: Collection[str], expected: Collection[str]
    ) -> None:
        suspects, soft_failed = facts.suspects, facts.soft_failed
        self.nodes = NodeTable()
        self._suspects = suspects
        self._add(node for i, node in soft_failed.items() if i in chosen)
        self._add(facts.stale.values())
        self._add(facts.unfinished.values())
        self._frontier = Frontier(NodeTable.of(suspects).followers())
        self._frontier.add(
            i for i, node in suspects.items() if node.key is not None and i in chosen
        )
        self._frontier.add(facts.stale)
        self._frontier.add(facts.unfinished)
        self._frontier.add(i for i in expected if i in suspects or i in self.nodes)

    def take(self, size: int) -> list[str]:
        """Some events whose accepted children are to be looked up; none in the end."""
        return self._frontier.take(size)

    def add(self, behind: Behind) -> None:
        """Takes in the accepted events that follow those that were taken."""
        self._add(behind.nodes)
        self._frontier.add((node.event_id for node in behind.nodes), behind.looked_up)

    def _add(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.event_id not in self._suspects:
                self.nodes.add(node)
