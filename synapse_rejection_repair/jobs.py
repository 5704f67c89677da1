"""The loop of a repair: plan, carry out, plan again, until there is nothing left to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attr
from typing_extensions import override

from synapse_rejection_repair.carrying_out import PlanExecutor
from synapse_rejection_repair.domain.gaps import Gap
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.passes import Passes
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.repair import RepairJob, RepairProgress, RepairRequest
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.errors import (
    NotInRoom,
    NotStored,
    RepairError,
    StateNotReached,
    StepFailed,
)
from synapse_rejection_repair.planner import Planner
from synapse_rejection_repair.ports import Clock, FactsReader, RoomReader, RoomWriter
from synapse_rejection_repair.ports_gaps import GapFiller
from synapse_rejection_repair.ports_jobs import JobStore, Runner
from synapse_rejection_repair.ports_peers import PeerStates, StatesElsewhere
from synapse_rejection_repair.statefrom import KeptStates
from synapse_rejection_repair.undo import Undoing

_SETTLE_SECONDS = 20.0
"""How long the end of a job waits for events that were on their way in, in seconds.

Not for ever: an event that Synapse fails at stays on its way in.
"""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RepairRunner(Runner[RepairRequest, RepairProgress]):
    """Carries out jobs of rooms whose events this process writes.

    Every step is done and journalled in one transaction, and a plan is only ever made
    from what is stored. So a job that was killed is taken up by planning again.

    Attributes:
        store: the jobs.
        rooms: knows rooms.
        facts: reads what plans are made from.
        planner: makes plans.
        writer: changes rooms.
        executor: carries plans out.
        undoing: undoes repairs.
        peer_states: gets what is missing of states that were taken from other servers.
        gaps: gets missing events from other servers.
        clock: tells the time.
    """

    store: JobStore[RepairRequest, RepairProgress]
    rooms: RoomReader
    facts: FactsReader
    planner: Planner
    writer: RoomWriter
    executor: PlanExecutor
    undoing: Undoing
    peer_states: PeerStates
    gaps: GapFiller
    clock: Clock

    @property
    @override
    def kind(self) -> str:
        return "Repair"

    @override
    async def run(self, job: RepairJob) -> RepairJob:
        undoes = job.request.undoes
        return await (self._repair(job) if undoes is None else self.undoing.run(job, undoes))

    @override
    def outcome(self, job: RepairJob) -> str:
        return f"accepted {job.progress.accepted}, left rejected {job.progress.rejected}"

    async def _repair(self, job: RepairJob) -> RepairJob:
        job = await self._begin(job)
        await self._secure(job)
        # If it was killed just after writing the current state, it finds nothing else to do.
        await self.writer.forget(job.room_id)
        with self.writer.attending(job.room_id):
            return await self._passes(job)

    async def _begin(self, job: RepairJob) -> RepairJob:
        try:
            await self.rooms.require_repairable(job.room_id)
        except NotInRoom:
            # What a repair accepts may take this server out of the room, long before its end.
            if job.started_ts is None:
                raise
        job = job.begun(self.clock.now_ms())
        if job.progress.start_position is not None:
            return await self._progress(job)
        # The position first: an extremity may be newer than it, but none may be left out.
        position = await self.rooms.position(job.room_id)
        extremities = tuple(sorted(await self.rooms.forward_extremities(job.room_id)))
        return await self._progress(job, start_position=position, start_extremities=extremities)

    async def _secure(self, job: RepairJob) -> None:
        """Gets the events of borrowed states that are not here: all, or nothing is done."""
        request = job.request
        if request.state_from is None or not request.borrowed:
            return
        wanted = {c.after for one in request.borrowed for c in one.difference if c.after}
        version = await self.rooms.require_room(job.room_id)
        await self.peer_states.secure(job.room_id, version, request.state_from, wanted)

    async def _passes(self, job: RepairJob) -> RepairJob:
        """Plans and carries out, until a plan finds nothing left to do.

        One pass is not enough where the room goes on meanwhile: what was received just
        before its root was accepted has been rejected by the race.
        """
        passes = Passes()
        while True:
            began = self.clock.now_ms()
            plan = await self._plan(job)
            took_ms = self.clock.now_ms() - began
            accepted = len(await self._accepted_by(job))
            job = await self._progress(
                job,
                total=accepted + plan.accepted + plan.rejected,
                done=accepted,
                accepted=accepted,
                rejected=0,
                state_changes=job.progress.state_changes or plan.state_changes,
            )
            if not plan.idle and not job.cancel_requested:
                if passes.overtakes(plan, took_ms):
                    job, plan, carried_out = await self._overtake(job)
                else:
                    job, carried_out = await self.executor.carry_out(job, plan)
                    await self.writer.finish(plan)
                passes = await self.clock.in_thread(passes.after, plan, carried_out)
                if passes.in_vain and not plan.idle:
                    raise _stuck(plan)
            if job.cancel_requested:
                await self._tidy(job)
                return attr.evolve(job, status=Status.CANCELLED)
            if not plan.idle:
                await self._settle(job)
                continue
            missing = passes.still_missing(plan)
            if not missing:
                done = accepted + plan.rejected
                job = await self._progress(job, rejected=plan.rejected, done=done)
                not_stored = self.writer.not_stored(job.room_id)
                if not_stored:
                    raise NotStored(tuple(not_stored))
                return attr.evolve(job, status=Status.COMPLETE)
            # Last, since Synapse would reject it by what was rejected.
            passes = passes.asking(missing)
            job = await self._fetch(job, missing)

    async def _fetch(self, job: RepairJob, missing: Sequence[Gap]) -> RepairJob:
        """Asks other servers for what is missing, and goes on whatever they answer."""

        async def cancelled() -> bool:
            return await self.store.cancel_requested(job.job_id)

        came = await self.gaps.fill(job.room_id, missing, cancelled)
        return await self._progress(job, fetched=job.progress.fetched + came)

    async def _overtake(self, job: RepairJob) -> tuple[RepairJob, Plan, int]:
        """Makes and carries out a new plan while the room's writes wait.

        In a room that never rests, what arrives while a plan is made cites events that are
        yet to be accepted, or follows some whose states are yet to be mended: no pass would
        be the last. What waits is looked at again before it is stored.
        """
        done: tuple[RepairJob, Plan, int] | None = None

        async def mend() -> Plan:
            nonlocal done
            plan = await self._plan(job)
            done_now, carried_out = await self.executor.carry_out(job, plan)
            done = done_now, plan, carried_out
            return plan

        await self.writer.finish_after(job.room_id, mend)
        assert done is not None
        return done

    async def _tidy(self, job: RepairJob) -> None:
        """Brings the rest of the room in line with what a cancelled job has accepted."""
        facts = await self.facts.read(job.room_id)
        plan = await self.planner.plan(facts, job.request.scope, job.request.deliver, ())
        if not plan.idle:
            await self.executor.carry_out(
                attr.evolve(job, cancel_requested=False), plan, stoppable=False
            )
            await self.writer.finish(plan)

    async def _plan(self, job: RepairJob) -> Plan:
        facts = await self.facts.read(job.room_id)
        chosen = job.request.scope.select(
            facts.suspects,
            repaired=await self._accepted_by(job),
            after=job.progress.start_position,
        ) | job.request.scope.select_soft_failed(facts.soft_failed)
        return await self.planner.plan(
            facts, job.request.scope, job.request.deliver, chosen, _elsewhere(job)
        )

    async def _accepted_by(self, job: RepairJob) -> frozenset[str]:
        return await self.store.journalled(job.job_id, Action.RECEIVE.value)

    async def _progress(self, job: RepairJob, **changes: Any) -> RepairJob:
        return await self.store.save(job.with_progress(**changes))

    async def _settle(self, job: RepairJob) -> None:
        now = self.clock.now_ms()
        deadline = now + _SETTLE_SECONDS * 1000
        while not await self.rooms.settled(job.room_id, now):
            if self.clock.now_ms() > deadline:
                return
            await self.clock.pause(0.1)


def _elsewhere(job: RepairJob) -> StatesElsewhere | None:
    request = job.request
    return KeptStates(request.state_from, request.borrowed) if request.state_from else None


def _stuck(plan: Plan) -> RepairError:
    for step in plan.steps.some(lambda kind: kind.action is not Action.REJECT):
        return StepFailed(step.node.event_id, "what the plan foretells for it does not come true")
    return StateNotReached(plan.room_id)
