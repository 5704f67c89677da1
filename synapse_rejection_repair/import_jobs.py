"""Carrying imports out: how a room's old history is brought in, a batch at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import attr
from typing_extensions import override

from synapse_rejection_repair.ahead import Ahead
from synapse_rejection_repair.arrival_order import ArrivalOrder
from synapse_rejection_repair.comparison import missing, require_room
from synapse_rejection_repair.domain.imports import ImportJob, ImportProgress, ImportRequest
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.listing import Page
from synapse_rejection_repair.domain.source import BEGINNING
from synapse_rejection_repair.media_import import MediaImport
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import (
    ImportTarget,
    ImportWriter,
    Source,
    Sources,
    StoreBatch,
)
from synapse_rejection_repair.ports_jobs import JobStore, Runner

_PAGE_BESIDE_OTHERS = 25
_REST_BESIDE_OTHERS = 1.0
"""How events are stored while somebody else uses the server: so many at a time, with a rest
after them of so many times as long as they took. Chosen with `bench.imports`: who sends in
another room is to wait no more than twice as long as when idle.
"""

_SPARE = 1000
"""How many stream orderings are set aside beyond what was counted: the source may grow."""

_JOBS = 20
"""How many earlier imports are read at a time."""

MakeWriter = Callable[[str, str, Source, ImportRequest], ImportWriter]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class ImportRunner(Runner[ImportRequest, ImportProgress]):
    """Carries out imports into rooms whose events this process writes.

    What is here already is skipped, and how far the import is is noted in the transaction
    that stores the events. So a job that was killed is taken up by going on.

    Attributes:
        store: the jobs.
        sources: the old databases.
        target: this server.
        media: brings media along.
        make_writer: gives a writer for a room, its version, a source and what is asked for.
        clock: lets the server breathe.
        others_asked: counts what this process is asked that has nothing to do with the module.
    """

    store: JobStore[ImportRequest, ImportProgress]
    sources: Sources
    target: ImportTarget
    media: MediaImport
    make_writer: MakeWriter
    clock: Clock
    others_asked: Callable[[], int]

    @property
    @override
    def kind(self) -> str:
        return "Import"

    @override
    async def run(self, job: ImportJob) -> ImportJob:
        source = await self.sources.open(job.request.source)
        try:
            return await self._bring(job, source)
        finally:
            await source.close()

    @override
    def outcome(self, job: ImportJob) -> str:
        return f"imported {job.progress.imported}, skipped {dict(job.progress.skipped)}"

    async def _bring(self, job: ImportJob, source: Source) -> ImportJob:
        room_id = job.room_id
        version = await require_room(source, self.target, job.request.source, room_id)
        if job.request.media:
            self.media.require_possible(job.request.source, source)
        lacking = await missing(source, self.target, room_id, rejected=True)
        total = job.progress.done + lacking
        job = await self.store.save(job.begun(self.clock.now_ms()).with_progress(total=total))
        # One that was begun goes on to its end: what is left out there counts as well.
        if lacking or job.progress.lowest is not None:
            writer = self.make_writer(room_id, version, source, job.request)
            job = await self._continue_orderings(job)
            job = await writer.prepare(job, lacking + _SPARE)
            async with writer.at_work():
                job = await self._loop(job, source, writer)
            await writer.finish(job)
        if job.request.media and not job.cancel_requested:
            job = await self.media.bring(job, source)
        if job.cancel_requested:
            return attr.evolve(job, status=Status.CANCELLED)
        return attr.evolve(job.with_progress(total=job.progress.done), status=Status.COMPLETE)

    async def _continue_orderings(self, job: ImportJob) -> ImportJob:
        """Takes over what the room's last import left of the stream orderings it had set aside.

        So a history that comes in two halves is in one order.
        """
        if job.progress.reserved:
            return job
        async for earlier in self._earlier(job):
            left = earlier.progress
            # One that was called off before it began has set nothing aside.
            if not left.reserved:
                continue
            if earlier.status is Status.COMPLETE:
                return job
            return job.with_progress(reserved=left.reserved, lowest=left.lowest)
        return job

    async def _earlier(self, job: ImportJob) -> AsyncGenerator[ImportJob, None]:
        """The other imports of a job's room, the newest first."""
        start = 0
        while True:
            page = Page(start, _JOBS, order_by="created_ts", backwards=True)
            rows = (await self.store.page(page, job.room_id, None)).rows
            if not rows:
                return
            for earlier in rows:
                if earlier.job_id != job.job_id:
                    yield earlier
            start += len(rows)

    async def _loop(self, job: ImportJob, source: Source, writer: ImportWriter) -> ImportJob:
        began, done_before = self.clock.now_ms(), job.progress.done
        after = job.progress.cursor or BEGINNING
        page = _page(job, _PAGE_BESIDE_OTHERS)
        arrivals = ArrivalOrder(source, self.target, job.room_id, after, page)
        batches = self._verified(arrivals, writer)
        requests = self.others_asked()
        try:
            while (store := await batches.next()) is not None:
                seconds = (self.clock.now_ms() - began) / 1000
                job = _with_rate(job, job.progress.done - done_before, seconds)
                before = self.clock.now_ms()
                job = await store(job, batches.begin)
                stored_in = (self.clock.now_ms() - before) / 1000
                if job.cancel_requested:
                    break
                alone = self.others_asked() == requests
                arrivals.page = _page(job, writer.at_once if alone else _PAGE_BESIDE_OTHERS)
                rest = 0.0 if alone else stored_in * _REST_BESIDE_OTHERS
                requests = self.others_asked()
                await self.clock.pause(
                    max(rest, self._due(job, job.progress.done - done_before, began))
                )
        finally:
            await batches.close()
        return job

    def _verified(self, arrivals: ArrivalOrder, writer: ImportWriter) -> Ahead[StoreBatch]:
        """The batches, of which the next is verified, and one more read, while one is stored."""
        read = Ahead(self.clock, arrivals.batches())

        async def verified() -> AsyncGenerator[StoreBatch, None]:
            try:
                while (batch := await read.next()) is not None:
                    read.begin()
                    yield await writer.verify(*batch)
            finally:
                await read.close()

        return Ahead(self.clock, verified())

    def _due(self, job: ImportJob, done: int, began: int) -> float:
        """How long to wait for the rate that was asked for, in seconds."""
        limit = job.request.events_per_second
        return 0.0 if limit is None else done / limit - (self.clock.now_ms() - began) / 1000


def _page(job: ImportJob, size: int) -> int:
    # A rest is of a second then, whatever the rate: a cancellation is seen after it.
    limit = job.request.events_per_second
    return size if limit is None else min(size, limit)


def _with_rate(job: ImportJob, done: int, seconds: float) -> ImportJob:
    if done <= 0 or seconds <= 0:
        return job
    return job.with_progress(events_per_second=round(done / seconds, 1))
