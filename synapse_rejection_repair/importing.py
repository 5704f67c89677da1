"""Bringing a room's old history in: what it would bring, and the loop that brings it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import attr

from synapse_rejection_repair.domain.arrival import WaitingRoom
from synapse_rejection_repair.domain.imports import (
    BEGINNING,
    Held,
    ImportJob,
    ImportProgress,
    ImportRequest,
    Position,
    Skip,
    Skipped,
    SourceEvent,
    SourceRoom,
    Summary,
)
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.visibility import hidden_from
from synapse_rejection_repair.errors import (
    OtherRoomVersion,
    RepairError,
    UnknownSourceRoom,
)
from synapse_rejection_repair.ports import (
    Clock,
    ImportTarget,
    ImportWriter,
    JobStore,
    Source,
    Sources,
)

logger = logging.getLogger(__name__)

_PAGE = 100
"""How many events are read, checked and stored at a time: Synapse stores so many at once."""

_PAGE_BESIDE_OTHERS = 50
_REST_BESIDE_OTHERS = 0.7
"""How it is done while somebody else uses the server: so many events at a time, with a rest
after them of so many times as long as they took. Chosen with `bench.imports`: who sends in
another room is to wait no more than twice as long as when idle.
"""

_LOOKED_AT = 500
"""How many events a dry run reads at a time."""

_IDS = 5000
"""How many ids are compared at a time."""

_SPARE = 1000
"""How many stream orderings are set aside beyond what was counted: the source may grow."""

Imports = JobStore[ImportRequest, ImportProgress]
MakeWriter = Callable[[str, str, Source, bool], ImportWriter]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RoomImport:
    """What came of asking for the import of one of many rooms.

    Attributes:
        room_id: the room.
        summary: what it would bring, in a dry run.
        job: the job that does it.
        error: why there is neither.
    """

    room_id: str
    summary: Summary | None = None
    job: ImportJob | None = None
    error: RepairError | None = None


@attr.s(frozen=True, slots=True, auto_attribs=True)
class ImportService:
    """Answers requests for imports, on any process.

    Attributes:
        sources: the old databases.
        target: this server.
        store: the imports.
        started: told of a new job, so that it begins at once where it can.
        server_name: this server's name.
    """

    sources: Sources
    target: ImportTarget
    store: Imports
    started: Callable[[ImportJob], None]
    server_name: str

    async def rooms(self, name: str, page: Page) -> Listing[SourceRoom]:
        """The rooms of a source against ours.

        Raises:
            UnknownSource: the configuration names none such.
            SourceUnavailable: it cannot be read.
            SourceRefused: it is none of Synapse's, or too old.
        """
        source = await self.sources.open(name)
        try:
            counts = await source.rooms()
            ordered = sorted(
                counts,
                key=lambda r: (counts[r] if page.order_by == "events" else 0, r),
                reverse=page.backwards,
            )
            shown = ordered[page.start : page.start + page.limit]
            joined = await self.target.joined_rooms(shown)
            rows = [
                SourceRoom(r, counts[r], await missing(source, self.target, r), r in joined)
                for r in shown
            ]
            return Listing(rows, len(counts))
        finally:
            await source.close()

    async def dry_run(self, room_id: str, request: ImportRequest) -> Summary:
        """What an import would bring. Writes nothing.

        Raises:
            UnknownRoom: this server has never heard of the room.
            NotInRoom: no local user is joined.
            PartialState: the room's state is still being fetched.
            UnsupportedRoomVersion: the room's version is not known.
            UnknownSourceRoom: the source has no events of the room.
            RepairError: as for `rooms`.
        """
        source = await self.sources.open(request.source)
        try:
            version = await require_room(source, self.target, request.source, room_id)
            return await self._summary(source, room_id, version)
        finally:
            await source.close()

    async def start(self, room_id: str, request: ImportRequest) -> ImportJob:
        """Begins an import in the background.

        Raises:
            JobRunning: the room has a job that is not over.
            RepairError: as for `dry_run`.
        """
        source = await self.sources.open(request.source)
        try:
            await require_room(source, self.target, request.source, room_id)
        finally:
            await source.close()
        job = await self.store.create(room_id, request)
        self.started(job)
        return job

    async def many(
        self, room_ids: Sequence[str] | None, request: ImportRequest, *, dry_run: bool
    ) -> list[RoomImport]:
        """Makes dry runs of, or begins, the imports of many rooms.

        Args:
            room_ids: the rooms; `None` for all of the source's that a user of this server is
                in and that lack something.
            request: what is asked for each of them.
            dry_run: whether nothing is to be written.

        Raises:
            RepairError: the source cannot be read. What is wrong with one room is part of
                the answer instead.
        """
        if room_ids is None:
            room_ids = await self._lacking(request.source)
        else:
            await (await self.sources.open(request.source)).close()
        answers = []
        for room_id in room_ids:
            try:
                if dry_run:
                    found = RoomImport(room_id, summary=await self.dry_run(room_id, request))
                else:
                    found = RoomImport(room_id, job=await self.start(room_id, request))
            except RepairError as e:
                found = RoomImport(room_id, error=e)
            answers.append(found)
        return answers

    async def _lacking(self, name: str) -> list[str]:
        source = await self.sources.open(name)
        try:
            joined = await self.target.joined_rooms(list(await source.rooms()))
            return [r for r in sorted(joined) if await missing(source, self.target, r)]
        finally:
            await source.close()

    async def _summary(self, source: Source, room_id: str, version: str) -> Summary:
        summary = Summary()
        after = BEGINNING
        while events := await source.history(room_id, after, _LOOKED_AT):
            after = events[-1].position
            summary = await self._add(summary, source, room_id, version, events)
        return summary

    async def _add(
        self,
        summary: Summary,
        source: Source,
        room_id: str,
        version: str,
        events: Sequence[SourceEvent],
    ) -> Summary:
        held = await self.target.held([e.event_id for e in events])
        lacking = [e for e in events if held.get(e.event_id) in (None, Held.OUTLIER)]
        accepted = [e for e in lacking if not e.rejected]
        refused, pruned = await self.target.inspect(room_id, version, accepted)
        bad = {s.event_id for s in refused}
        arriving = [e for e in accepted if e.event_id not in bad]
        prevs = {p for e in arriving for p in e.prev_event_ids} - {e.event_id for e in arriving}
        known = {i for i, how in (await self.target.held(prevs)).items() if how is Held.FULL}
        there = await source.positions(room_id, prevs - known)
        gaps = prevs - known - there.keys()
        hidden = await hidden_events(source, room_id, self.server_name, arriving)
        return attr.evolve(
            summary,
            source_events=summary.source_events + len(events),
            present=summary.present + len(events) - len(lacking),
            to_import=summary.to_import + len(arriving),
            outliers=summary.outliers + sum(held.get(e.event_id) is Held.OUTLIER for e in arriving),
            rejected=summary.rejected + len(lacking) - len(accepted),
            soft_failed=summary.soft_failed + sum(e.soft_failed for e in arriving),
            bad_hash=summary.bad_hash
            + len(pruned)
            + sum(s.reason is Skip.BAD_EVENT_ID for s in refused),
            gaps=summary.gaps + sum(not gaps.isdisjoint(e.prev_event_ids) for e in arriving),
            encrypted=summary.encrypted + sum(e.encrypted for e in arriving),
            hidden_by_visibility=summary.hidden_by_visibility + hidden,
        )


async def require_room(source: Source, target: ImportTarget, name: str, room_id: str) -> str:
    """The version of a room that can be imported."""
    version = await target.require_room(room_id)
    if not await source.history(room_id, BEGINNING, 1):
        raise UnknownSourceRoom(name, room_id)
    there = await source.room_version(room_id)
    if there is not None and there != version:
        raise OtherRoomVersion(room_id, version, there)
    return version


async def missing(source: Source, target: ImportTarget, room_id: str) -> int:
    """How many events of a room the source has accepted that this server has not in full."""
    count, after = 0, BEGINNING
    while found := await source.accepted_ids(room_id, after, _IDS):
        after = found[-1][0]
        held = await target.held([event_id for _, event_id in found])
        count += sum(held.get(i) in (None, Held.OUTLIER) for _, i in found)
    return count


async def hidden_events(
    source: Source, room_id: str, server_name: str, events: Sequence[SourceEvent]
) -> int:
    """How many of some events no user of a server may see, who is in the room now."""
    groups = {e.state_group for e in events if e.state_group is not None}
    if not groups:
        return 0
    tracked = await source.tracked(groups, server_name)
    wanted = {v for v, _ in tracked.values() if v is not None}
    wanted.update(m for _, members in tracked.values() for m in members.values())
    found = await source.events(room_id, wanted)
    contents = {i: (e.pdu or {}).get("content") for i, e in found.items()}
    hidden = {
        group: hidden_from(
            contents.get(visibility or ""), [contents.get(m) for m in members.values()]
        )
        for group, (visibility, members) in tracked.items()
    }
    return sum(e.state_group is not None and hidden[e.state_group] for e in events)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class ImportRunner:
    """Carries out imports into rooms whose events this process writes.

    What is here already is skipped, and how far the import is is noted in the transaction
    that stores the events. So a job that was killed is taken up by going on.

    Attributes:
        store: the jobs.
        sources: the old databases.
        target: this server.
        make_writer: gives a writer for a room, its version, a source and whether to
            check signatures.
        clock: lets the server breathe.
        requests_begun: counts what others ask of this process.
    """

    store: Imports
    sources: Sources
    target: ImportTarget
    make_writer: MakeWriter
    clock: Clock
    requests_begun: Callable[[], int]

    async def run(self, job: ImportJob) -> ImportJob:
        """Carries a job out to its end, whatever that is."""
        logger.info("Import %s of %s: begins", job.job_id, job.room_id)
        try:
            source = await self.sources.open(job.request.source)
            try:
                job = await self._bring(job, source)
            finally:
                await source.close()
        except RepairError as e:
            job = await self._failed(job, str(e))
        except Exception as e:
            # The message of an unknown error could hold anything; the log has it.
            logger.exception("Import %s of %s: failed", job.job_id, job.room_id)
            job = await self._failed(
                job, f"An unexpected {type(e).__name__} ended the job: see Synapse's log"
            )
        job = await self.store.save(attr.evolve(job, finished_ts=self.clock.now_ms()))
        logger.info(
            "Import %s of %s: %s, imported %d, skipped %s%s",
            job.job_id,
            job.room_id,
            job.status.value,
            job.progress.imported,
            dict(job.progress.skipped),
            f": {job.error}" if job.error else "",
        )
        return job

    async def _failed(self, job: ImportJob, reason: str) -> ImportJob:
        # What it had done when it failed is in its row.
        job = await self.store.get(job.job_id)
        progress = attr.evolve(job.progress, eta_ms=None)
        return attr.evolve(job, status=Status.FAILED, error=reason, progress=progress)

    async def _bring(self, job: ImportJob, source: Source) -> ImportJob:
        room_id = job.room_id
        version = await require_room(source, self.target, job.request.source, room_id)
        lacking = await missing(source, self.target, room_id)
        total = job.progress.done + lacking
        job = await self.store.save(
            attr.evolve(
                job,
                status=Status.ACTIVE,
                started_ts=job.started_ts or self.clock.now_ms(),
                progress=attr.evolve(job.progress, total=total),
            )
        )
        if lacking:
            writer = self.make_writer(room_id, version, source, job.request.verify_signatures)
            job = await self._continue_orderings(job)
            job = await writer.prepare(job, lacking + _SPARE)
            job = await self._loop(job, source, writer)
        progress = attr.evolve(job.progress, eta_ms=None, reserved=job.progress.reserved)
        if job.cancel_requested:
            return attr.evolve(job, status=Status.CANCELLED, progress=progress)
        progress = attr.evolve(progress, total=progress.done)
        return attr.evolve(job, status=Status.COMPLETE, progress=progress)

    async def _continue_orderings(self, job: ImportJob) -> ImportJob:
        """Takes over what the room's last import left of the stream orderings it had set aside.

        So a history that comes in two halves is in one order.
        """
        if job.progress.reserved:
            return job
        page = Page(start=0, limit=2, order_by="created_ts", backwards=True)
        earlier = [
            e
            for e in (await self.store.page(page, job.room_id, None)).rows
            if e.job_id != job.job_id and e.status in (Status.CANCELLED, Status.FAILED)
        ]
        if not earlier:
            return job
        left = earlier[0].progress
        progress = attr.evolve(job.progress, reserved=left.reserved, lowest=left.lowest)
        return attr.evolve(job, progress=progress)

    async def _loop(self, job: ImportJob, source: Source, writer: ImportWriter) -> ImportJob:
        began, done_before = self.clock.now_ms(), job.progress.done
        arrivals = _Arrivals(source, self.target, job.room_id, job.progress.cursor or BEGINNING)
        arrivals.page = _page(job, arrivals.page)
        requests = self.requests_begun()
        async for events, skipped, cursor in arrivals.batches():
            seconds = (self.clock.now_ms() - began) / 1000
            job = _with_rate(job, job.progress.done - done_before, seconds)
            before = self.clock.now_ms()
            job = await writer.store(job, events, cursor, skipped)
            stored_in = (self.clock.now_ms() - before) / 1000
            if job.cancel_requested:
                break
            alone = self.requests_begun() == requests
            arrivals.page = _page(job, _PAGE if alone else _PAGE_BESIDE_OTHERS)
            rest = 0.0 if alone else stored_in * _REST_BESIDE_OTHERS
            requests = self.requests_begun()
            await self.clock.pause(
                max(rest, self._due(job, job.progress.done - done_before, began))
            )
        return job

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
    rate = done / seconds
    left = max(0, job.progress.total - job.progress.done)
    progress = attr.evolve(
        job.progress, events_per_second=round(rate, 1), eta_ms=int(left / rate * 1000)
    )
    return attr.evolve(job, progress=progress)


class _Arrivals:
    """The events that have to arrive, parents first, in the source's order where that allows it.

    Args:
        source: the old database.
        target: this server.
        room_id: the room.
        after: the position before which everything is decided.
    """

    def __init__(self, source: Source, target: ImportTarget, room_id: str, after: Position) -> None:
        self._source = source
        self._target = target
        self._room_id = room_id
        self.page = _PAGE_BESIDE_OTHERS
        self._read = after
        self._decided = after
        self._waiting = WaitingRoom()

    async def batches(
        self,
    ) -> AsyncIterator[tuple[list[SourceEvent], list[Skipped], Position]]:
        """Batches of events to store, the events skipped since, and what is decided then."""
        while page := await self._source.history(self._room_id, self._read, self.page):
            self._read = page[-1].position
            async for events, skipped in self._sorted(page):
                yield events, skipped, self._decided
        while len(self._waiting):
            # A cycle, or one that waits for it: possible only where ids are no hashes.
            batch = _Batch()
            await self._settle(batch, await self._fetch(self._waiting.let_go_one()))
            yield batch.events, batch.skipped, self._decided
        yield [], [], self._read

    async def _sorted(
        self, page: Sequence[SourceEvent]
    ) -> AsyncIterator[tuple[list[SourceEvent], list[Skipped]]]:
        on_page = {e.event_id: e for e in page}
        parents = {p for e in page for p in _parents(e)} - on_page.keys()
        held = await self._target.held({*on_page, *parents})
        elsewhere = {p for p in parents if held.get(p) in (None, Held.OUTLIER)}
        later = {
            event_id
            for event_id, position in (
                await self._source.positions(self._room_id, elsewhere)
            ).items()
            if position > self._read
        }
        batch = _Batch()
        undecided = set(on_page)
        for event in page:
            undecided.discard(event.event_id)
            if not self._decide(batch, event, held.get(event.event_id)):
                unmet = {
                    p for p in _parents(event) if p in later or p in undecided or p in self._waiting
                }
                if unmet:
                    self._waiting.wait(event.event_id, event.position, unmet)
                    continue
                batch.events.append(event)
            await self._settle(batch, await self._fetch(self._waiting.decided(event.event_id)))
            while len(batch.events) > self.page:
                yield batch.events[: self.page], []
                del batch.events[: self.page]
        # What waits is read again if the job is taken up from here.
        earliest = self._waiting.earliest()
        self._decided = self._read if earliest is None else earliest.before()
        yield batch.events, batch.skipped

    def _decide(self, batch: _Batch, event: SourceEvent, held: Held | None) -> bool:
        """Takes an event that need not be stored as decided."""
        if held is Held.FULL:
            return True
        if held is Held.REJECTED:
            if not event.rejected:
                batch.skipped.append(Skipped(event.event_id, Skip.REJECTED_HERE))
            return True
        if event.rejected and not event.cited:
            batch.skipped.append(Skipped(event.event_id, Skip.REJECTED_BY_SOURCE))
            return True
        return False

    async def _settle(self, batch: _Batch, freed: Collection[SourceEvent]) -> None:
        """Adds events whose parents are decided now, and those that waited for them."""
        todo = list(freed)
        while todo:
            event = todo.pop(0)
            batch.events.append(event)
            todo += await self._fetch(self._waiting.decided(event.event_id))

    async def _fetch(self, event_ids: Sequence[str]) -> list[SourceEvent]:
        if not event_ids:
            return []
        found = await self._source.events(self._room_id, event_ids)
        return [found[i] for i in event_ids if i in found]


@attr.s(slots=True, auto_attribs=True)
class _Batch:
    events: list[SourceEvent] = attr.Factory(list)
    skipped: list[Skipped] = attr.Factory(list)


def _parents(event: SourceEvent) -> list[str]:
    return [*event.prev_event_ids, *event.auth_event_ids]
