"""Works out what a repair would do, by walking a room's DAG with Synapse's own checks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import attr

from synapse_rejection_repair.domain.affected import Affected
from synapse_rejection_repair.domain.borrowed import BorrowedState
from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.model import ACCEPTED, Verdict
from synapse_rejection_repair.domain.nodes import NodeTable, Union
from synapse_rejection_repair.domain.plan import Plan, complete
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.steps import Action, Steps
from synapse_rejection_repair.planning.current_state import CurrentStateCheck
from synapse_rejection_repair.planning.event_states import EventStates
from synapse_rejection_repair.planning.extremities import Ends
from synapse_rejection_repair.planning.judge import Judge
from synapse_rejection_repair.planning.states import States
from synapse_rejection_repair.planning.walk import HeldBack, Walk
from synapse_rejection_repair.ports import Checker, Clock, DagReader, StateReader
from synapse_rejection_repair.ports_peers import StatesElsewhere
from synapse_rejection_repair.soft_failures import SoftFailureJudge

_BATCH = 200
"""How many events are read at a time."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class _Draft:
    """What a walk has found, before soft-failed events are decided on.

    Attributes:
        steps: what is done with each event; those held back are let through.
        held_back: the events that are soft-failed, or may be.
        borrowed: the states that were taken from elsewhere, by event.
        events: the states of events.
        ends: finds the forward extremities.
        soft_failures: judges the soft-failed events.
    """

    steps: Steps
    held_back: list[HeldBack]
    borrowed: dict[str, BorrowedState]
    events: EventStates
    ends: Ends
    soft_failures: SoftFailureJudge


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Planner:
    """Makes plans and verdicts. Reads only.

    Attributes:
        dag: the database.
        states: stored states and their resolution.
        make_checker: gives a fresh checker for a room of a version.
        clock: lets the server breathe.
    """

    dag: DagReader
    states: StateReader
    make_checker: Callable[[str], Checker]
    clock: Clock

    async def plan(
        self,
        facts: RoomFacts,
        scope: Scope,
        deliver: Deliver,
        chosen: Collection[str],
        elsewhere: StatesElsewhere | None = None,
    ) -> Plan:
        """Works out a repair.

        Args:
            facts: the room as it is.
            scope: what the request asks for.
            deliver: how clients are to be told.
            chosen: the suspects in scope.
            elsewhere: whose state is taken before events that fail by ours.

        Raises:
            RepairError: that server does not answer, or not with what can be used.
        """
        expected = set(elsewhere.expected) if elsewhere else set()
        draft = await self._draft(facts, chosen, scope.force, elsewhere)
        if not draft.borrowed.keys() <= expected:
            # The state of what follows these events changes too, and was not looked at.
            draft = await self._draft(facts, chosen, scope.force, elsewhere)
        steps, _ = await self._decided(draft)
        extremities = await draft.ends.after(steps.nodes(lambda kind: kind.extends))
        ref = await draft.events.after_all(extremities)
        final = facts.current_state if ref is None else await draft.events.states.full(ref)
        borrowed = tuple(draft.borrowed.values())
        dropped = not facts.current_state and not await self.states.joined_here(final)
        return await self.clock.in_thread(
            complete, facts, scope, deliver, steps, extremities, final, borrowed, dropped
        )

    async def verdicts(self, facts: RoomFacts, roots: Collection[str]) -> dict[str, Verdict]:
        """The verdicts on roots and soft-failed events, as a repair of the whole room gives them.

        Messages of the cascade are not judged: no verdict on a root depends on them.
        """
        everything = Union(facts.suspects, facts.soft_failed)
        draft = await self._draft(facts, everything, frozenset(), wanted=roots)
        steps, soft_failed = await self._decided(draft)
        judged = await self.clock.in_thread(steps.verdicts_on, {*roots, *facts.soft_failed})
        return {**judged, **soft_failed}

    async def _draft(
        self,
        facts: RoomFacts,
        chosen: Collection[str],
        force: frozenset[str],
        elsewhere: StatesElsewhere | None = None,
        wanted: Collection[str] | None = None,
    ) -> _Draft:
        affected = await self._affected(facts, chosen, elsewhere)
        soft_failed = {i: node for i, node in facts.soft_failed.items() if i in chosen}
        followed = await self.dag.followed(Union(facts.suspects, soft_failed))
        checker = self.make_checker(facts.room_version)
        states = States(
            self.states,
            partial(self.states.resolve, facts.room_id, facts.room_version, checker=checker),
        )
        events = EventStates(states, self.dag)
        current_state = CurrentStateCheck(
            checker, events, Union(facts.suspects, affected), self.dag
        )
        judge = Judge(checker, states, current_state, force, elsewhere)
        walk = Walk(facts, chosen, affected, followed, events, judge, self.clock)
        await walk.run(wanted)
        ends = Ends(facts, followed, self.dag, self.clock)
        return _Draft(
            walk.steps,
            walk.held_back,
            judge.borrowed,
            events,
            ends,
            SoftFailureJudge(
                facts,
                self.dag,
                checker,
                self.clock,
                events.after_all,
                states.lookup,
                ends.after,
            ),
        )

    async def _affected(
        self, facts: RoomFacts, chosen: Collection[str], elsewhere: StatesElsewhere | None
    ) -> NodeTable:
        expected = elsewhere.expected if elsewhere else ()
        affected = await self.clock.in_thread(Affected, facts, chosen, expected)
        while batch := affected.take(_BATCH):
            await self.clock.in_thread(affected.add, await self.dag.accepted_behind(batch))
            await self.clock.breathe()
        return affected.nodes

    async def _decided(self, draft: _Draft) -> tuple[Steps, dict[str, Verdict]]:
        """The steps, with all that is soft-failed decided on.

        Returns:
            The steps, and the verdicts on the events that are soft-failed as it is.
        """
        held_back, in_thread = draft.held_back, self.clock.in_thread
        if not held_back:
            return draft.steps, {}
        waiting = [(held.node, held.before) for held in held_back]
        received = draft.steps.nodes(lambda kind: kind.extends)
        verdicts = await draft.soft_failures.judge(waiting, received)
        instead: dict[str, tuple[Action, Verdict] | None] = {}
        on_stored = {}
        for held in held_back:
            event_id, verdict = held.node.event_id, verdicts[held.node.event_id]
            if held.node.rejected is not None or held.node.damaged:
                if verdict.accepted:
                    instead[event_id] = Action.RECEIVE, ACCEPTED
                continue
            on_stored[event_id] = verdict
            if not verdict.accepted:
                instead[event_id] = (Action.RESTATE, ACCEPTED) if held.restated else None
        return await in_thread(draft.steps.decided, instead), on_stored
