"""Starting jobs on the process that is to run them, and taking up those that were left."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Generic

import attr

from synapse_rejection_repair.domain.job import Job, Progress, Request, Status
from synapse_rejection_repair.domain.traces import trace
from synapse_rejection_repair.errors import RepairError
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_jobs import JobStore, Meter, Runner

logger = logging.getLogger(__name__)


class Background(Generic[Request, Progress]):
    """Runs jobs of one kind in the background of one process.

    Args:
        store: the jobs.
        runner: carries one job out; `None` on a process that writes no events.
        writes_room: whether this process writes the events of a room.
        spawn: runs a function as a background process of Synapse's.
        meter: counts the jobs.
        clock: tells the time.
        trouble: says, of an error, what is wrong with the database for the time being;
            `None` if that is not what it tells of.
        at_once: how many jobs run at a time; others wait, scheduled.
    """

    def __init__(
        self,
        store: JobStore[Request, Progress],
        runner: Runner[Request, Progress] | None,
        writes_room: Callable[[str], bool],
        spawn: Callable[[Callable[[], Awaitable[None]]], object],
        meter: Meter[Request, Progress],
        clock: Clock,
        trouble: Callable[[Exception], str | None],
        *,
        at_once: int = 2,
    ) -> None:
        self._store = store
        self._runner = runner
        self._writes_room = writes_room
        self._spawn = spawn
        self._meter = meter
        self._clock = clock
        self._trouble = trouble
        self._at_once = at_once
        self._running: set[str] = set()
        self._troubled_ms: dict[str, int] = {}

    def started(self, job: Job[Request, Progress]) -> None:
        """Begins a new job at once where this process is the one to run it."""
        if self._writes_room(job.room_id):
            self._begin(job)

    async def poll(self) -> None:
        """Takes up jobs that were asked of other processes, or left by one that died."""
        if self._runner is None:
            return
        jobs = await self._store.unfinished()
        # What waits for the database is not to keep others waiting that may not have to.
        for job in sorted(jobs, key=lambda job: self._troubled_ms.get(job.job_id, 0)):
            self._begin(job)

    async def cancel(self, job_id: str) -> Job[Request, Progress]:
        """Ends a job that has not begun, or asks one to stop, whichever process runs it.

        Raises:
            UnknownJob: there is none of that id and kind.
            JobOver: it has ended.
        """
        job = await self._store.cancel(job_id)
        if job.status is Status.CANCELLED and job.started_ts is None:
            logger.info("Job %s of %s: cancelled before it began", job_id, job.room_id)
            self._meter.ended(job)
        return job

    def _begin(self, job: Job[Request, Progress]) -> None:
        runner = self._runner
        if runner is None or job.job_id in self._running:
            return
        if len(self._running) >= self._at_once:
            return
        self._running.add(job.job_id)

        async def run() -> None:
            self._meter.begun()
            try:
                over = await self._carry_out(runner, job)
            finally:
                self._meter.stopped()
                self._running.discard(job.job_id)
            if over:
                await self.poll()

        self._spawn(run)

    async def _carry_out(
        self, runner: Runner[Request, Progress], job: Job[Request, Progress]
    ) -> bool:
        """Carries a job out to its end, whatever that is; false if it has to wait, or was over."""
        name = f"{runner.kind} {job.job_id} of {job.room_id}"
        try:
            # Since it was looked up it may have been cancelled, or carried out by us.
            begun = await self._store.begin(job.job_id)
            if begun is None:
                return False
            logger.info("%s: begins", name)
            job = await runner.run(attr.evolve(begun, error=None))
        except RepairError as e:
            job = await self._failed(job, str(e))
        except Exception as e:
            trouble = self._trouble(e)
            if trouble is not None:
                self._troubled_ms[job.job_id] = self._clock.now_ms()
                await self._wait(name, job, trouble)
                return False
            # The message of an unknown error could hold anything.
            logger.error("%s: failed\n%s", name, trace(e))
            reason = f"An unexpected {type(e).__name__} ended the job: see Synapse's log"
            job = await self._failed(job, reason)
        self._troubled_ms.pop(job.job_id, None)
        job = await self._store.save(attr.evolve(job, finished_ts=self._clock.now_ms()))
        error = f": {job.error}" if job.error else ""
        logger.info("%s: %s, %s%s", name, job.status.value, runner.outcome(job), error)
        self._meter.ended(job)
        return True

    async def _failed(self, job: Job[Request, Progress], reason: str) -> Job[Request, Progress]:
        # What it had done when it failed is in its row.
        job = await self._store.get(job.job_id)
        return attr.evolve(job, status=Status.FAILED, error=reason)

    async def _wait(self, name: str, job: Job[Request, Progress], trouble: str) -> None:
        """Leaves a job to be taken up again by a later look for jobs that are not over."""
        logger.warning("%s: waits: %s", name, trouble)
        try:
            job = await self._store.get(job.job_id)
            await self._store.save(
                attr.evolve(job, error=f"{trouble}: the job goes on when that is over")
            )
        except Exception as e:
            if self._trouble(e) is None:
                raise
