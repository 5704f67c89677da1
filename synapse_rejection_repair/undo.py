"""Undoing repairs: whether one can be, what that does, and doing it."""

from __future__ import annotations

from collections.abc import Callable

import attr

from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.repair import RepairJob, RepairProgress, RepairRequest
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.undo import UNDO, UndoPlan, changes_back, done_with
from synapse_rejection_repair.errors_undo import (
    AlreadyUndone,
    JournalGone,
    NotOver,
    NotUndoable,
    StateGone,
    TouchedSince,
)
from synapse_rejection_repair.ports import Clock, RoomReader
from synapse_rejection_repair.ports_jobs import JobStore
from synapse_rejection_repair.ports_undo import UndoReader, UndoWriter


@attr.s(frozen=True, slots=True, auto_attribs=True)
class UndoPlanner:
    """Finds out what undoing a repair does, and whether it can be.

    Attributes:
        store: the repairs.
        rooms: knows rooms.
        undo: reads the journal, and what was built since.
    """

    store: JobStore[RepairRequest, RepairProgress]
    rooms: RoomReader
    undo: UndoReader

    async def plan(self, repair: RepairJob) -> UndoPlan:
        """What undoing a repair does. Writes nothing.

        Raises:
            NotUndoable: it undid a repair itself.
            NotOver: it still runs.
            JournalGone: the journal no longer has what it did.
            AlreadyUndone: it has been undone before.
            TouchedSince: a later job has dealt with the same events.
            EventsGone: events that it dealt with were purged.
            NothingLeft: but for what it let in, nothing is left of the room.
            BuiltUpon: accepted events build on what it let in.
            StateGone: states that events had before it are no longer stored.
            NotInRoom: no local user is joined any more.
        """
        if repair.request.undoes is not None:
            raise NotUndoable(repair.job_id)
        if not repair.status.over:
            raise NotOver(repair.job_id)
        await self.rooms.require_repairable(repair.room_id)
        events = done_with(await self.undo.journal(repair.job_id))
        if sum(Action.RECEIVE in actions for actions in events.values()) < repair.progress.accepted:
            raise JournalGone(repair.job_id)
        undone_by = await self.undo.undone_by(repair)
        if undone_by is not None and events:
            raise AlreadyUndone(repair.job_id, undone_by)
        later = await self.undo.later_jobs(repair, events)
        if later:
            raise TouchedSince(repair.job_id, tuple(later))
        obstacle = await self.undo.obstacle(repair, events)
        if obstacle is not None:
            raise obstacle
        stateless = await self.undo.stateless(repair, events)
        if stateless:
            raise StateGone(repair.job_id, tuple(stateless))
        current = await self.rooms.current_state(repair.room_id)
        changes = changes_back(repair.progress.state_changes, current)
        return UndoPlan(repair.job_id, repair.room_id, events, changes)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class UndoService:
    """Answers requests for undoing repairs, on any process.

    Attributes:
        store: the repairs.
        planner: finds out what undoing does.
        started: told of a new job, so that it begins at once where it can.
    """

    store: JobStore[RepairRequest, RepairProgress]
    planner: UndoPlanner
    started: Callable[[RepairJob], None]

    async def dry_run(self, repair_id: str) -> UndoPlan:
        """What undoing a repair would do. Writes nothing.

        Raises:
            UnknownJob: there is no such repair.
            RepairError: as `UndoPlanner.plan`.
        """
        return await self.planner.plan(await self.store.get(repair_id))

    async def start(self, repair_id: str) -> RepairJob:
        """Begins to undo a repair, in the background: a job among the repairs.

        Raises:
            JobRunning: the room has a job that is not over.
            RepairError: as `dry_run`.
        """
        plan = await self.dry_run(repair_id)
        request = RepairRequest(Scope(), Deliver.LIVE, undoes=repair_id)
        job = await self.store.create(plan.room_id, request)
        self.started(job)
        return job


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Undoing:
    """Undoes repairs of rooms whose events this process writes.

    What is put back is noted in the same transaction, so a job that was killed goes on
    with the rest.

    Attributes:
        store: the repairs.
        planner: finds out what undoing does.
        writer: changes rooms.
        clock: tells the time.
    """

    store: JobStore[RepairRequest, RepairProgress]
    planner: UndoPlanner
    writer: UndoWriter
    clock: Clock

    async def run(self, job: RepairJob, undoes: str) -> RepairJob:
        """Undoes a repair, to the end; gives the job as it is then.

        Raises:
            RepairError: it cannot be undone.
        """
        repair = await self.store.get(undoes)
        done = await self.store.journalled(job.job_id, UNDO)
        if done:
            events = done_with(await self.planner.undo.journal(undoes))
            changes = job.progress.state_changes
        else:
            plan = await self.planner.plan(repair)
            events, changes = dict(plan.events), plan.state_changes
        job = await self.store.save(
            job.begun(self.clock.now_ms()).with_progress(
                total=len(events), done=len(done), state_changes=changes
            )
        )
        await self.writer.undo(job, repair, {i: a for i, a in events.items() if i not in done})
        return attr.evolve(job.with_progress(done=len(events)), status=Status.COMPLETE)
