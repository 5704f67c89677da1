"""Telling an admin what happened in a room: roots, cascades, verdicts, and the room's health."""

from __future__ import annotations

from collections.abc import Iterable

import attr

from synapse_rejection_repair.domain.cascade import Cascade, cascades, largest
from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.health import Finding, Problem, problem
from synapse_rejection_repair.domain.model import Node, Verdict
from synapse_rejection_repair.domain.nodes import NodeTable, Union
from synapse_rejection_repair.domain.peers import PeerReport
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.watch import Recorded
from synapse_rejection_repair.errors import NotInRoom, PartialState, UnsupportedRoomVersion
from synapse_rejection_repair.peers import PeerSurvey
from synapse_rejection_repair.planner import Planner
from synapse_rejection_repair.ports import Clock, FactsReader, RoomReader
from synapse_rejection_repair.ports_watch import CauseReader

_MOST_ROOTS = 1000
"""How many roots a diagnosis tells of, those with the largest cascades.

A wave of messages that were rejected rightly, one by one, is nothing but roots.
"""

_ROOTS_ASKED_ABOUT = 5
"""About how many roots other servers are asked in one diagnosis, the oldest first."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Root:
    """One cause of an incident.

    Attributes:
        node: the rejected event that cites no rejected event.
        verdict: what its checks say today.
        cascade: what was rejected only because of it.
        recorded: what was recorded when it was rejected; `None` if it was not noticed.
        peers: what other servers say of it; `None` if they were not asked.
    """

    node: Node
    verdict: Verdict
    cascade: Cascade
    recorded: Recorded | None = None
    peers: PeerReport | None = None


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Diagnosis:
    """What happened in a room.

    Attributes:
        rejected_events: how many of its events are rejected.
        roots: the causes, oldest first; of very many, those with the largest cascades.
        still_flowing: the servers whose events were accepted since the first rejection.
        soft_failed: the events that were soft-failed since, each with today's verdict.
        roots_total: how many roots there are.
    """

    rejected_events: int
    roots: list[Root]
    still_flowing: list[str]
    soft_failed: list[tuple[Node, Verdict]] = attr.Factory(list)
    roots_total: int = 0


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Diagnostician:
    """Looks at rooms. Reads only.

    Attributes:
        rooms: knows rooms.
        facts: reads what plans are made from.
        planner: runs Synapse's checks again.
        causes: what was recorded of rejections.
        survey: asks other servers.
        clock: lets the server breathe.
    """

    rooms: RoomReader
    facts: FactsReader
    planner: Planner
    causes: CauseReader
    survey: PeerSurvey
    clock: Clock

    async def diagnose(self, room_id: str, peers: int = 0) -> Diagnosis:
        """Tells the roots of a room's rejections from the cascade.

        Args:
            room_id: the room.
            peers: how many other servers to ask about each of the first roots.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: the room's version is not known.
        """
        facts = await self.facts.read(room_id, scan=False)
        rejected = facts.suspects
        if not rejected and not facts.soft_failed:
            return Diagnosis(0, [], [])
        everything = await self.clock.in_thread(cascades, rejected)
        found = largest(everything, _MOST_ROOTS)
        verdicts = await self.planner.verdicts(facts, found)
        recorded = await self.causes.recorded(found.keys())
        reports: dict[str, PeerReport] = {}
        if peers:
            for root in list(found)[:_ROOTS_ASKED_ABOUT]:
                _, reports[root] = await self.survey.of_event(root, peers)
        flowing: list[str] = []
        if rejected:
            first = NodeTable.of(rejected).first_stored()
            flowing = await self.rooms.servers_accepted_since(room_id, first)
        return Diagnosis(
            rejected_events=len(rejected),
            roots=[
                Root(rejected[r], verdicts[r], cascade, recorded.get(r), reports.get(r))
                for r, cascade in found.items()
            ],
            still_flowing=flowing,
            soft_failed=[(n, verdicts[i]) for i, n in facts.soft_failed.items()],
            roots_total=len(everything),
        )

    async def health(self, room_id: str) -> list[Problem]:
        """Finds what is wrong with a room, by the rules of `domain.health`.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: the room's version is not known.
        """
        facts = await self.facts.read(room_id)
        everything = Union(facts.suspects, facts.soft_failed)
        plan = await self.planner.plan(facts, Scope(), Deliver.LIVE, everything)
        as_it_is = await self.planner.plan(facts, Scope(), Deliver.LIVE, ())
        bad_state = await self.rooms.bad_current_state(room_id)
        problems = await self.clock.in_thread(_problems, facts, plan, as_it_is, bad_state)
        return problems if await self._can_repair(room_id) else _beyond_repair(problems)

    async def _can_repair(self, room_id: str) -> bool:
        try:
            await self.rooms.require_repairable(room_id)
        except (NotInRoom, PartialState, UnsupportedRoomVersion):
            return False
        return True


def _problems(facts: RoomFacts, plan: Plan, as_it_is: Plan, bad_state: list[str]) -> list[Problem]:
    """What is wrong with a room.

    Args:
        facts: the room.
        plan: what a repair of all of it would do.
        as_it_is: what one that leaves rejected and soft-failed events alone would do.
        bad_state: what cannot be in the current state, but is.
    """
    outcome: dict[Action, list[str]] = {Action.RECEIVE: [], Action.REJECT: []}
    let_through: dict[str, None] = {}
    for step in plan.verdicts:
        if step.node.rejected is not None:
            outcome[step.action].append(step.node.event_id)
        if step.node.soft_failed:
            let_through[step.node.event_id] = None
    mended = {c.before for c in plan.state_changes}.union(outcome[Action.RECEIVE])
    hidden = [event_id for event_id in facts.soft_failed if event_id not in let_through]
    problems = [
        *problem(Finding.WRONGLY_REJECTED, outcome[Action.RECEIVE]),
        *problem(Finding.REJECTED, outcome[Action.REJECT], repairable=False),
        *problem(Finding.WRONGLY_SOFT_FAILED, let_through),
        *problem(Finding.SOFT_FAILED, hidden, repairable=False),
        *problem(Finding.GAPS, [gap.event_id for gap in plan.gaps]),
        *problem(Finding.BAD_EXTREMITIES, sorted(facts.extremities - as_it_is.extremities)),
        *problem(Finding.BAD_CURRENT_STATE, bad_state, repairable=mended.issuperset(bad_state)),
    ]
    restates = as_it_is.steps.nodes(lambda kind: kind.action is Action.RESTATE)
    restated = [node.event_id for node in restates]
    for finding, event_ids in {**facts.defects, Finding.STALE_STATE: restated}.items():
        problems += problem(finding, event_ids)
    if facts.current_state and facts.extremities:
        mismatch = [c.after or c.before or "" for c in as_it_is.state_changes]
        problems += problem(Finding.STATE_MISMATCH, mismatch)
    return problems


def _beyond_repair(problems: Iterable[Problem]) -> list[Problem]:
    return [attr.evolve(p, repairable=False) for p in problems]
