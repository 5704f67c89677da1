"""Carrying a plan out: take a few steps, re-check, write, note, go on."""

from __future__ import annotations

from collections.abc import Callable

import attr

from synapse_rejection_repair.domain.chunks import chunks
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.repair import RepairJob, RepairProgress, RepairRequest
from synapse_rejection_repair.domain.steps import Action, Step
from synapse_rejection_repair.ports import Checker, Clock, RoomReader, RoomWriter
from synapse_rejection_repair.ports_jobs import JobStore

_SAVE_EVERY_MS = 500
"""How often a job's progress is written, in milliseconds."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class PlanExecutor:
    """Carries plans out, on the process that writes the room's events.

    Attributes:
        store: the jobs.
        rooms: knows rooms.
        writer: changes rooms.
        make_checker: gives a fresh checker for a room of a version.
        clock: lets the server breathe.
        at_once: how many events are stored at a time.
        rest: how long everything else has the database to itself after each chunk, in
            times that the chunk took.
    """

    store: JobStore[RepairRequest, RepairProgress]
    rooms: RoomReader
    writer: RoomWriter
    make_checker: Callable[[str], Checker]
    clock: Clock
    at_once: int = 200
    rest: float = 0.0

    async def carry_out(
        self, job: RepairJob, plan: Plan, *, stoppable: bool = True
    ) -> tuple[RepairJob, int]:
        """Carries a plan out as far as its verdicts hold.

        Args:
            job: what it is carried out for.
            plan: the plan.
            stoppable: whether to stop where the job is cancelled.

        Returns:
            The job with its progress, and how many steps were done.
        """
        version = await self.rooms.require_room(job.room_id)
        checker = self.make_checker(version)
        await self.writer.prepare(plan)
        carried_out = 0
        saved = self.clock.now_ms()
        waiting = chunks(plan.steps, self.at_once)
        rest: list[Step] = []
        while chunk := rest or next(waiting, []):
            rest = []
            began = self.clock.now_ms()
            if chunk[0].kind.idle:
                job = _decided(job, rejected=len(chunk))
                await self.clock.breathe()
                continue
            decided = await self.writer.apply(job, chunk, checker)
            held = [s for s, verdict in decided if verdict.outcome is s.verdict.outcome]
            carried_out += len(held)
            job = _decided(
                job,
                accepted=sum(s.action is Action.RECEIVE for s in held),
                rejected=sum(s.action is Action.REJECT for s in held),
            )
            now = self.clock.now_ms()
            if now - saved > _SAVE_EVERY_MS:
                job, saved = await self.store.save(job), now
            elif await self.store.cancel_requested(job.job_id):
                job = attr.evolve(job, cancel_requested=True)
            if (stoppable and job.cancel_requested) or len(held) < len(decided):
                break
            rest = chunk[len(decided) :]
            await self.clock.pause(self.rest * (self.clock.now_ms() - began) / 1000)
        return await self.store.save(job), carried_out


def _decided(job: RepairJob, accepted: int = 0, rejected: int = 0) -> RepairJob:
    before = job.progress
    return job.with_progress(
        accepted=before.accepted + accepted,
        rejected=before.rejected + rejected,
        done=before.done + accepted + rejected,
    )
