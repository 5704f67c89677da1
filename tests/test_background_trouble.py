"""Which jobs are carried out, and in which order, while the database has its troubles."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import Mock

import attr
import pytest

from synapse_rejection_repair.background import Background
from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.repair import RepairJob, RepairProgress, RepairRequest
from synapse_rejection_repair.domain.scope import Scope
from tests.domain.world import run


class Trouble(Exception):
    """The database is in trouble."""


class Jobs:
    """Jobs of one room each, the oldest first, and how each of them ends."""

    def __init__(self, *ends: Exception | None) -> None:
        request = RepairRequest(Scope(), Deliver.LIVE)
        self.ends = dict(zip("abcdef", ends, strict=False))
        self.jobs = {
            i: RepairJob(i, f"!{i}", Status.SCHEDULED, request, RepairProgress()) for i in self.ends
        }
        self.begun: list[str] = []
        self.spawned: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.now = 0

    # A `Runner`, a `JobStore` and a `Clock` as far as it takes.

    kind = "Repair"

    async def run(self, job: RepairJob) -> RepairJob:
        self.begun.append(job.job_id)
        end = self.ends[job.job_id]
        if end is not None:
            raise end
        return attr.evolve(job, status=Status.COMPLETE)

    def outcome(self, job: RepairJob) -> str:
        return "done"

    async def get(self, job_id: str) -> RepairJob:
        return self.jobs[job_id]

    async def begin(self, job_id: str) -> RepairJob:
        return self.jobs[job_id].begun(self.now)

    async def save(self, job: RepairJob) -> RepairJob:
        self.jobs[job.job_id] = job
        return job

    async def unfinished(self) -> list[RepairJob]:
        return [job for job in self.jobs.values() if not job.status.over]

    def now_ms(self) -> int:
        self.now += 1
        return self.now

    def looks(self, times: int, at_once: int = 1) -> str:
        """The jobs that are begun, in their order, in so many looks for them."""
        jobs: Any = self
        background = Background(
            jobs,
            jobs,
            lambda room_id: True,
            jobs.spawned.append,
            Mock(),
            jobs,
            lambda e: "It is in trouble" if isinstance(e, Trouble) else None,
            at_once=at_once,
        )
        for _ in range(times):
            run(background.poll())
            while self.spawned:
                run(self.spawned.pop(0)())
        return "".join(self.begun)


def test_one_in_trouble_keeps_no_other_waiting() -> None:
    jobs = Jobs(Trouble(), None, ValueError(), None)
    assert jobs.looks(2) == "abcda"
    assert [job.status.value for job in jobs.jobs.values()] == [
        "scheduled",
        "complete",
        "failed",
        "complete",
    ]


@pytest.mark.parametrize("at_once", [1, 2])
def test_those_in_trouble_take_turns(at_once: int) -> None:
    jobs = Jobs(Trouble(), Trouble(), Trouble())
    begun = jobs.looks(6, at_once)
    assert begun[: 6 * at_once] == ("abc" * 4)[: 6 * at_once]
