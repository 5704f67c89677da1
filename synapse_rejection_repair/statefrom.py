"""The states before events that a repair takes from another server: asked for, or kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from typing_extensions import override

from synapse_rejection_repair.domain.borrowed import BorrowedState
from synapse_rejection_repair.domain.model import Node, StateIds
from synapse_rejection_repair.errors_peers import StateMoved
from synapse_rejection_repair.ports import Checker
from synapse_rejection_repair.ports_peers import StatesElsewhere


class KeptStates(StatesElsewhere):
    """What a job was made with. The server is not asked again, so it cannot answer otherwise.

    Args:
        server: the server that the states were taken from.
        borrowed: the states.
    """

    def __init__(self, server: str, borrowed: Iterable[BorrowedState]) -> None:
        self.server = server
        self._kept = {one.event_id: one for one in borrowed}

    @property
    @override
    def expected(self) -> Collection[str]:
        return self._kept.keys()

    @override
    async def state_before(self, node: Node, ours: StateIds, checker: Checker) -> StateIds | None:
        kept = self._kept.get(node.event_id)
        if kept is None:
            return None
        state = kept.over(ours)
        if state is None:
            raise StateMoved(node.event_id)
        return state
