"""A repair as a value: the dry run prints it, the run executes it."""

from __future__ import annotations

from collections.abc import Iterator

import attr

from synapse_rejection_repair.domain.borrowed import BorrowedState
from synapse_rejection_repair.domain.delivery import Deliver, delivered_as_history
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.gaps import Gap
from synapse_rejection_repair.domain.model import ACCEPTED, StateChange, StateIds, state_changes
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.steps import Action, Step, Steps, as_steps


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Plan:
    """All that a repair of one room does, in the order in which it does it.

    Attributes:
        room_id: the room.
        fingerprint: of the facts that the plan was made from.
        steps: what is done with each event, parents first.
        state_changes: how the room's current state changes.
        extremities: the forward extremities that the room will have.
        mend_extremities: the stored forward extremities need correcting even where no
            event is received.
        borrowed: the states before events that it takes from another server.
        gaps: the missing events that other servers are asked for in the end. What comes
            is not foretold.
    """

    room_id: str
    fingerprint: str
    steps: Steps = attr.ib(converter=as_steps)
    state_changes: tuple[StateChange, ...]
    extremities: frozenset[str]
    mend_extremities: bool = False
    borrowed: tuple[BorrowedState, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def verdicts(self) -> Iterator[Step]:
        """The steps that judge an event: those that the answer of a dry run lists."""
        return self.steps.some(lambda kind: kind.judges)

    @property
    def accepted(self) -> int:
        """How many events the plan accepts."""
        return self._number_of(Action.RECEIVE)

    @property
    def rejected(self) -> int:
        """How many events the plan leaves rejected."""
        return self._number_of(Action.REJECT)

    @property
    def restated(self) -> int:
        """Of how many stored events the state is recomputed."""
        return self._number_of(Action.RESTATE)

    @property
    def let_through(self) -> int:
        """How many of the events that the plan accepts were soft-failed."""
        return self.steps.number_of(lambda k: k.action is Action.RECEIVE and k.soft_failed)

    def _number_of(self, action: Action) -> int:
        return self.steps.number_of(lambda kind: kind.action is action)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return (
            not self.state_changes
            and not self.mend_extremities
            and not self.steps.any(lambda kind: not kind.idle)
        )


def complete(
    facts: RoomFacts,
    scope: Scope,
    deliver: Deliver,
    steps: Steps,
    extremities: frozenset[str],
    final_state: StateIds,
    borrowed: tuple[BorrowedState, ...],
    dropped: bool = False,
) -> Plan:
    """The plan, once it is known what becomes of each event and of the room.

    Args:
        facts: the room as it is.
        scope: what the request asks for.
        deliver: how clients are to be told.
        steps: what is done with each suspect and what hangs on it; added to.
        extremities: the forward extremities that the room will have.
        final_state: the current state that it will have.
        borrowed: the states that are taken from another server.
        dropped: no current state is kept of it, since this server is out of it.
    """
    received = steps.nodes(lambda kind: kind.receives)
    steps.backfill(delivered_as_history(received, deliver, final_state, extremities))
    dealt_with = set(steps.event_ids)
    for node in facts.unindexed.values():
        if node.event_id not in dealt_with:
            steps.add(node, Action.INDEX, ACCEPTED)
    receives = steps.any(lambda kind: kind.receives)
    return Plan(
        room_id=facts.room_id,
        fingerprint=facts.fingerprint(scope, borrowed),
        steps=steps,
        state_changes=() if dropped else tuple(state_changes(facts.current_state, final_state)),
        extremities=extremities,
        mend_extremities=not receives and extremities != facts.extremities,
        borrowed=borrowed,
        gaps=facts.gaps_for(scope, received),
    )
