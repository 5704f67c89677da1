"""Starting jobs on the process that is to run them, and taking up those that were left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol

from synapse_rejection_repair.domain.job import Job, Progress, Request
from synapse_rejection_repair.ports import JobStore


class Runner(Protocol[Request, Progress]):
    """Carries jobs of one kind out."""

    async def run(self, job: Job[Request, Progress]) -> Job[Request, Progress]:
        """Carries a job out to its end, whatever that is; gives it as it is then."""


class Meter(Protocol[Request, Progress]):
    """Counts jobs of one kind."""

    def begun(self) -> None:
        """A job runs here now."""

    def stopped(self) -> None:
        """A job runs here no more."""

    def ended(self, job: Job[Request, Progress]) -> None:
        """A job is over."""


class Background(Generic[Request, Progress]):
    """Runs jobs of one kind in the background of one process.

    Args:
        store: the jobs.
        runner: carries one job out; `None` on a process that writes no events.
        writes_room: whether this process writes the events of a room.
        spawn: runs a function as a background process of Synapse's.
        meter: counts the jobs.
        at_once: how many jobs run at a time; others wait, scheduled.
    """

    def __init__(
        self,
        store: JobStore[Request, Progress],
        runner: Runner[Request, Progress] | None,
        writes_room: Callable[[str], bool],
        spawn: Callable[[Callable[[], Awaitable[None]]], object],
        meter: Meter[Request, Progress],
        *,
        at_once: int = 2,
    ) -> None:
        self._store = store
        self._runner = runner
        self._writes_room = writes_room
        self._spawn = spawn
        self._meter = meter
        self._at_once = at_once
        self._running: set[str] = set()

    def started(self, job: Job[Request, Progress]) -> None:
        """Begins a new job at once where this process is the one to run it."""
        if self._writes_room(job.room_id):
            self._begin(job)

    async def poll(self) -> None:
        """Takes up jobs that were asked of other processes, or left by one that died."""
        if self._runner is None:
            return
        for job in await self._store.unfinished():
            self._begin(job)

    def _begin(self, job: Job[Request, Progress]) -> None:
        runner = self._runner
        if runner is None or job.job_id in self._running or len(self._running) >= self._at_once:
            return
        self._running.add(job.job_id)

        async def run() -> None:
            self._meter.begun()
            try:
                self._meter.ended(await runner.run(job))
            finally:
                self._meter.stopped()
                self._running.discard(job.job_id)
            await self.poll()

        self._spawn(run)
