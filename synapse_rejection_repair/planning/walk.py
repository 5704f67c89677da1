"""The walk over all events that a repair may touch, which decides what is done with each."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attr

from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.dag import ids_in_order
from synapse_rejection_repair.domain.extremities import MovingExtremities
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.model import ACCEPTED, Node, Outcome, Verdict
from synapse_rejection_repair.domain.nodes import Union
from synapse_rejection_repair.domain.state import StateRef
from synapse_rejection_repair.domain.steps import Action, Steps
from synapse_rejection_repair.planning.event_states import EventStates
from synapse_rejection_repair.planning.judge import Judge
from synapse_rejection_repair.ports import Clock

_BATCH = 200
"""How many events are read at a time."""

_AS_REJECTED = Verdict(Outcome.REJECT)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class HeldBack:
    """An event on whose soft failure is decided once all else is.

    Attributes:
        node: the event: soft-failed, or rejected and, by what the walk has seen, to be soft-failed.
        before: the state before it, `None` if it is not known.
        restated: its stored state is not the right one, whatever is decided.
    """

    node: Node
    before: StateRef | None
    restated: bool = False


class Walk:
    """One walk over a room's DAG, parents first.

    Args:
        facts: the room as it is.
        chosen: the suspects and soft-failed events that the repair may store anew.
        affected: the accepted events whose state may change, and the soft-failed ones.
        followed: the events that an accepted event in the database follows.
        events: the states of events.
        judge: judges the suspects.
        clock: lets the server breathe.
    """

    def __init__(
        self,
        facts: RoomFacts,
        chosen: Collection[str],
        affected: Mapping[str, Node],
        followed: Collection[str],
        events: EventStates,
        judge: Judge,
        clock: Clock,
    ) -> None:
        self.steps = Steps(Union(facts.suspects, affected, facts.unindexed))
        self.held_back: list[HeldBack] = []
        self._facts = facts
        self._chosen = chosen
        self._nodes = Union(facts.suspects, affected) if affected else facts.suspects
        self._extremities = MovingExtremities(facts.extremities - facts.bad_extremities, followed)
        self._events = events
        self._judge = judge
        self._clock = clock

    async def run(self, wanted: Collection[str] | None) -> None:
        """Goes through all events.

        Args:
            wanted: the events to judge, beside all state events; `None` for all.
        """
        nodes, facts = self._nodes, self._facts
        for event_ids in batches(await self._clock.in_thread(ids_in_order, nodes), _BATCH):
            batch = [nodes[event_id] for event_id in event_ids]
            around = {i for n in batch for i in (*n.prev_event_ids, n.event_id)}
            restatable = [i for i in event_ids if i not in facts.suspects]
            await self._events.read(around | facts.extremities, restatable)
            judged = [
                node
                for node in batch
                if node.event_id in facts.suspects
                and node.event_id in self._chosen
                and (wanted is None or node.event_id in wanted or node.key is not None)
            ]
            await self._judge.load(judged)
            to_judge = {node.event_id for node in judged}
            for node in batch:
                await self._clock.breathe()
                await self._visit(node, node.event_id in to_judge)

    async def _visit(self, node: Node, judge: bool) -> None:
        if node.event_id not in self._facts.suspects:
            await self._visit_accepted(node)
            return
        before = None if node.outlier else await self._events.before(node)
        if judge:
            await self._visit_judged(node, before)
        elif node.event_id in self._chosen:
            self._visit_unjudged(node, before)
        elif node.damaged:
            self._events.keep(node)
        else:
            await self._stays_rejected(node, before)

    async def _visit_judged(self, node: Node, before: StateRef | None) -> None:
        found = await self._judge.judge(node, before, self._extremities.now)
        verdict = found.verdict
        action = Action.RECEIVE if verdict.accepted else Action.REJECT
        self.steps.add(node, action, verdict, state_before=found.theirs)
        if verdict.accepted:
            self._events.accept(node, found.before)
            if verdict.soft_failed and found.theirs is None:
                # The walk goes by the DAG, and looks at states that it has yet to mend.
                self.held_back.append(HeldBack(node, found.before))
            elif not verdict.soft_failed and not node.outlier:
                self._extremities.accept(node)
        elif not node.damaged:
            await self._stays_rejected(node, found.before)
        elif verdict.outcome is Outcome.UNKNOWN:
            self._events.keep(node)
        else:
            self._events.pass_by(node, found.before)

    def _visit_unjudged(self, node: Node, before: StateRef | None) -> None:
        self._events.pass_by(node, before)
        # Else what it follows would stay an extremity for ever, beside all that come later.
        if not self._extremities.now.isdisjoint(node.prev_event_ids):
            self._extremities.accept(node)

    async def _stays_rejected(self, node: Node, before: StateRef | None) -> None:
        """Keeps the state before a rejected event right, for what follows it takes it over."""
        self._events.pass_by(node, before)
        stored = self._events.stored(node.event_id)
        if before is None or stored is None or await self._events.states.equal(stored, before):
            return
        self.steps.add(node, Action.RESTATE, _AS_REJECTED)

    async def _visit_accepted(self, node: Node) -> None:
        if node.event_id in self._facts.soft_failed and node.event_id in self._chosen:
            before = await self._events.before(node)
            self.held_back.append(HeldBack(node, before, await self._is_restated(node)))
            self.steps.add(node, Action.RECEIVE, ACCEPTED)
        elif await self._is_restated(node):
            self.steps.add(node, Action.RESTATE, ACCEPTED)

    async def _is_restated(self, node: Node) -> bool:
        """Whether the state at an accepted event is not the stored one any more."""
        if node.outlier or self._events.stored(node.event_id) is None:
            return False
        doubtful = node.event_id in self._facts.stale or self._events.follows_found(node)
        if doubtful and node.event_id not in self._facts.borrowed:
            return await self._events.restate(node)
        self._events.keep(node)
        return False
