"""What an admin asks for: a dry run, a repair, a look at it, its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attr

from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.domain.nodes import Union
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.repair import RepairJob, RepairProgress, RepairRequest
from synapse_rejection_repair.errors import (
    FactsChanged,
    InvalidParam,
    NotRejected,
    UnknownEvents,
    first_of,
)
from synapse_rejection_repair.errors_peers import NotHeldElsewhere
from synapse_rejection_repair.planner import Planner
from synapse_rejection_repair.ports import Clock, FactsReader, RoomReader
from synapse_rejection_repair.ports_jobs import JobStore
from synapse_rejection_repair.ports_peers import PeerStates


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RepairService:
    """Answers requests for repairs, on any process.

    Attributes:
        rooms: knows rooms.
        facts: reads what plans are made from.
        planner: makes plans.
        store: the jobs.
        peer_states: other servers' states before events.
        clock: lets the server breathe.
        started: told of a new job, so that it begins at once where it can.
    """

    rooms: RoomReader
    facts: FactsReader
    planner: Planner
    store: JobStore[RepairRequest, RepairProgress]
    peer_states: PeerStates
    clock: Clock
    started: Callable[[RepairJob], None]

    async def dry_run(self, room_id: str, request: RepairRequest) -> Plan:
        """What a repair would do. Writes nothing.

        Raises:
            UnknownRoom: this server has never heard of the room.
            NotInRoom: no local user is joined.
            PartialState: the room's state is still being fetched.
            UnsupportedRoomVersion: the room's version is not known.
            UnknownEvents: the request names events that are not in the room.
            NotRejected: the request names events that are not rejected.
            FactsChanged: the request is bound to a plan that no longer holds.
            InvalidParam: the request makes no sense for the room.
            PeerFailed: the server that state is to be taken from does not answer.
            PeerStateRefused: it answers with what cannot be used.
            NotHeldElsewhere: it does not hold what its state is needed for.
        """
        facts = await self._checked_facts(room_id, request)
        scope, deliver = request.scope, request.deliver
        chosen = await self.clock.in_thread(facts.chosen, scope)
        if request.state_from is None:
            return await self.planner.plan(facts, scope, deliver, chosen)
        await self.peer_states.require_peer(room_id, request.state_from)
        elsewhere = self.peer_states.elsewhere(room_id, facts.room_version, request.state_from)
        plan = await self.planner.plan(facts, scope, deliver, chosen, elsewhere)
        if elsewhere.lacking and not plan.borrowed:
            raise NotHeldElsewhere(request.state_from, tuple(sorted(elsewhere.lacking)))
        if request.fingerprint not in (None, plan.fingerprint):
            raise FactsChanged(room_id, request.state_from)
        return plan

    async def start(self, room_id: str, request: RepairRequest) -> RepairJob:
        """Begins a repair in the background.

        Raises:
            JobRunning: the room has a job that is not over.
            RepairError: as `dry_run`.
        """
        if request.state_from is None:
            await self._checked_facts(room_id, request)
        else:
            plan = await self.dry_run(room_id, request)
            request = attr.evolve(request, borrowed=plan.borrowed)
        job = await self.store.create(room_id, request)
        self.started(job)
        return job

    async def _checked_facts(self, room_id: str, request: RepairRequest) -> RoomFacts:
        await self.rooms.require_repairable(room_id)
        facts = await self.facts.read(room_id)
        scope = request.scope
        named = Union(facts.suspects, facts.soft_failed)
        await self._require_rejected(room_id, "event_ids", sorted(scope.event_ids), named)
        await self._require_rejected(room_id, "force", sorted(scope.force), facts.suspects)
        chosen = await self.clock.in_thread(scope.select, facts.suspects)
        beyond = sorted(scope.force - chosen)
        if beyond:
            raise InvalidParam(
                "force", f"names events that are not among those to repair: {first_of(beyond)}"
            )
        # What another server says is part of the plan that such a request is bound to.
        if request.fingerprint is not None and request.state_from is None:
            now = await self.clock.in_thread(facts.fingerprint, scope)
            if now != request.fingerprint:
                raise FactsChanged(room_id)
        return facts

    async def _require_rejected(
        self, room_id: str, param: str, event_ids: list[str], suspects: Mapping[str, Node]
    ) -> None:
        others = [event_id for event_id in event_ids if event_id not in suspects]
        if not others:
            return
        unknown = await self.rooms.unknown_events(room_id, others)
        if unknown:
            raise UnknownEvents(room_id, tuple(unknown))
        raise NotRejected(param, tuple(others))
