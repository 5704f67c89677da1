"""Which jobs a process begins, on a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import attr

from synapse_rejection_repair.background import Background
from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.job import Job, Status
from synapse_rejection_repair.domain.repair import RepairJob, RepairProgress, RepairRequest
from synapse_rejection_repair.domain.scope import Scope


class Ports:
    """The jobs, what carries them out, and all else that `Background` asks for."""

    kind = "Repair"

    def __init__(self) -> None:
        request = RepairRequest(Scope(), Deliver.LIVE)
        self.job: RepairJob = Job("j", "!r", Status.SCHEDULED, request, RepairProgress())
        self.ran = 0
        self.ended: list[Status] = []

    async def unfinished(self) -> list[RepairJob]:
        return [] if self.job.status.over else [self.job]

    async def begin(self, job_id: str) -> RepairJob | None:
        if self.job.status.over:
            return None
        self.job = self.job.begun(1)
        return self.job

    async def get(self, job_id: str) -> RepairJob:
        return self.job

    async def save(self, job: RepairJob) -> RepairJob:
        self.job = job
        return job

    async def cancel(self, job_id: str) -> RepairJob:
        status = Status.CANCELLED if self.job.status is Status.SCHEDULED else self.job.status
        self.job = attr.evolve(self.job, status=status, cancel_requested=True)
        return self.job

    async def run(self, job: RepairJob) -> RepairJob:
        self.ran += 1
        return attr.evolve(job, status=Status.COMPLETE)

    def outcome(self, job: RepairJob) -> str:
        return ""

    def begun(self) -> None:
        pass

    def stopped(self) -> None:
        pass

    def now_ms(self) -> int:
        return 2

    def meter(self) -> Any:
        ports = self

        class Counter:
            begun, stopped = ports.begun, ports.stopped

            def ended(self, job: RepairJob) -> None:
                ports.ended.append(job.status)

        return Counter()


def background(ports: Any) -> Background[RepairRequest, RepairProgress]:
    def spawn(func: Callable[[], Awaitable[None]]) -> object:
        return asyncio.ensure_future(func())

    return Background(
        ports, ports, lambda room_id: True, spawn, ports.meter(), ports, lambda error: None
    )


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_job_that_was_over_when_its_row_came_is_not_run_again() -> None:
    async def scenario() -> None:
        ports = Ports()
        stale = ports.job
        jobs = background(ports)
        await jobs.poll()
        await settled()
        assert (ports.ran, ports.job.status) == (1, Status.COMPLETE)

        # A look for jobs that had read its row before the end was written.
        jobs.started(stale)
        jobs.started(stale.begun(1))
        await settled()
        assert (ports.ran, ports.ended) == (1, [Status.COMPLETE])

    asyncio.run(scenario())


def test_a_job_that_is_called_off_first_is_not_begun() -> None:
    async def scenario() -> None:
        ports = Ports()
        scheduled = ports.job
        jobs = background(ports)
        assert (await jobs.cancel("j")).status is Status.CANCELLED
        jobs.started(scheduled)
        await settled()
        assert (ports.ran, ports.ended) == (0, [Status.CANCELLED])

    asyncio.run(scenario())
