"""The verdicts on rejected and damaged events, each by the state before it."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

import attr

from synapse_rejection_repair.domain.borrowed import BorrowedState, borrow
from synapse_rejection_repair.domain.model import Check, Node, Outcome, StateIds, Verdict
from synapse_rejection_repair.domain.state import StateRef, difference
from synapse_rejection_repair.planning.current_state import CurrentStateCheck
from synapse_rejection_repair.planning.states import States
from synapse_rejection_repair.ports import Checker
from synapse_rejection_repair.ports_peers import StatesElsewhere

_NO_STATE = Verdict(
    Outcome.UNKNOWN,
    Check.STATE_BEFORE,
    "The state before the event is not known here: events before it are missing",
)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Judgement:
    """What is found of an event.

    Attributes:
        verdict: the outcome of its checks.
        before: the state before it, `None` if there is or is known none.
        theirs: all of that state, if it is another server's.
    """

    verdict: Verdict
    before: StateRef | None
    theirs: StateIds | None = None


class Judge:
    """Judges events one after the other, parents first.

    Args:
        checker: runs the checks; told of each verdict.
        states: the states that they are run against.
        current_state: check 6.
        force: the events that are accepted though they fail checks 4 or 5.
        elsewhere: whose state is taken before events that fail by ours.
    """

    def __init__(
        self,
        checker: Checker,
        states: States,
        current_state: CurrentStateCheck,
        force: Collection[str],
        elsewhere: StatesElsewhere | None,
    ) -> None:
        self.borrowed: dict[str, BorrowedState] = {}
        self._checker = checker
        self._states = states
        self._current_state = current_state
        self._force = force
        self._elsewhere = elsewhere

    async def load(self, nodes: Sequence[Node]) -> None:
        """Reads the events that are judged next."""
        await self._checker.load(nodes)

    async def judge(self, node: Node, before: StateRef | None, extremities: Set[str]) -> Judgement:
        """Judges a loaded event, by another server's state where it fails by ours.

        Args:
            node: the event.
            before: the state before it here, `None` if there is or is known none.
            extremities: the forward extremities that the room would have had.
        """
        found = Judgement(await self._verdict(node, before, extremities), before)
        if self._elsewhere and before is not None and found.verdict.check is Check.STATE_BEFORE:
            found = await self._by_theirs(self._elsewhere, node, before, found, extremities)
        # What cannot be judged stays as it is: a damaged event is marked accepted.
        if not (node.damaged and found.verdict.outcome is Outcome.UNKNOWN):
            self._checker.decide(node.event_id, found.verdict.accepted)
        return found

    async def _verdict(
        self,
        node: Node,
        before: StateRef | None,
        extremities: Set[str],
        *,
        borrowed: bool = False,
    ) -> Verdict:
        force = node.event_id in self._force
        if node.outlier:
            return await self._checker.check(node, None, force=force)
        if before is None:
            return _NO_STATE
        verdict = await self._checker.check(node, self._states.lookup(before), force=force)
        if verdict.accepted and not force:
            check_6 = self._current_state
            if await check_6.fails(node, before, extremities, borrowed=borrowed):
                return attr.evolve(verdict, soft_failed=True)
        return verdict

    async def _by_theirs(
        self,
        elsewhere: StatesElsewhere,
        node: Node,
        before: StateRef,
        ours: Judgement,
        extremities: Set[str],
    ) -> Judgement:
        our_state = await self._states.full(before)
        their_state = await elsewhere.state_before(node, our_state, self._checker)
        if their_state is None:
            return ours
        delta = difference(our_state, their_state)
        bad = await self._checker.not_accepted([i for i in delta.values() if i is not None])
        if bad:
            error = f"it holds {', '.join(bad)}, which is rejected here"
            verdict = attr.evolve(ours.verdict, error=error)
        else:
            ref = self._states.derive(before, delta)
            verdict = await self._verdict(node, ref, extremities, borrowed=True)
            if verdict.accepted:
                self.borrowed[node.event_id] = borrow(node.event_id, our_state, their_state)
                return Judgement(verdict, ref, their_state)
        error = f"By the state before it on {elsewhere.server}: {verdict.error}"
        return Judgement(attr.evolve(verdict, error=error), before)
