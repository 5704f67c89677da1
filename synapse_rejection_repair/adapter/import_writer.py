"""Storing a room's old history through Synapse's own persistence, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager

from synapse.server import HomeServer
from typing_extensions import override

from synapse_rejection_repair.adapter.admission import Admission, Admitted, SourceKeys
from synapse_rejection_repair.adapter.arrival_checker import ArrivalChecker
from synapse_rejection_repair.adapter.arrival_judge import ArrivalJudge, Arriving
from synapse_rejection_repair.adapter.arrival_outliers import ArrivalOutliers
from synapse_rejection_repair.adapter.arrival_states import ArrivalStates
from synapse_rejection_repair.adapter.arrival_store import ArrivalStore, BatchEnd, Jobs, Outlier
from synapse_rejection_repair.adapter.arrivals import ArrivalHooks
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.group_states import GroupStates
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.page_cache import larger_page_cache
from synapse_rejection_repair.adapter.rooms import SynapseRooms
from synapse_rejection_repair.domain.imports import ImportJob, ImportRequest, Skipped
from synapse_rejection_repair.domain.source import Position, SourceEvent
from synapse_rejection_repair.domain.spans import Span, without
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import ImportWriter, Source, StoreBatch

_PER_TRANSACTION = 100
"""How many events are handed to Synapse at once: as many as it stores in one transaction."""


class SynapseImportWriter(ImportWriter):
    """Stores events of one room as history, on the process that writes them.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        rooms: knows rooms.
        dag: knows events.
        admission: verifies events.
        make_checker: gives a fresh checker for a room of a version.
        hooks: take stored events away while they are stored anew.
        arrivals: the import's own part in Synapse's persistence.
        jobs: the imports.
        clock: tells the time.
        room_id: the room.
        room_version: its version's identifier.
        source: the old database.
        request: what is asked for.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        rooms: SynapseRooms,
        dag: SynapseDag,
        admission: Admission,
        make_checker: Callable[[str], EventChecker],
        hooks: PersistenceHooks,
        arrivals: ArrivalHooks,
        jobs: Jobs,
        clock: Clock,
        room_id: str,
        room_version: str,
        source: Source,
        request: ImportRequest,
    ) -> None:
        self._database = database
        self._admission = admission
        self._reserve = arrivals.reserve
        self._jobs = jobs
        self._clock = clock
        self._room_id = room_id
        self._room_version = room_version
        self._keys_from = SourceKeys(source) if request.verify_signatures else None
        groups = GroupStates(hs)
        checker = make_checker(room_version)
        self._checker = ArrivalChecker(checker, groups.entries)
        self._states = ArrivalStates(hs, dag, groups)
        outliers = ArrivalOutliers(
            hs, admission, self._checker, source, clock, room_id, room_version, self._keys_from
        )
        self._judge = ArrivalJudge(
            self._checker,
            self._states,
            outliers,
            rooms,
            source,
            room_id,
            request.judge_rejected,
        )
        self._store = ArrivalStore(hs, database, hooks, arrivals, jobs, clock, room_id)

    @override
    def at_work(self) -> AbstractAsyncContextManager[None]:
        return larger_page_cache(self._database)

    @override
    async def prepare(self, job: ImportJob, count: int) -> ImportJob:
        """Keeps what was set aside before the server was last started, if its first was used.

        Synapse goes on below the lowest that it finds.
        """
        progress = job.progress
        reserved, lowest = progress.reserved, progress.lowest
        if lowest is None or not await self._taken([(lowest, lowest)]):
            reserved, lowest = (), None
        # One that is used, by whomever, could never be used again.
        reserved = without(reserved, await self._taken(reserved))
        lacking = count - sum(high - low + 1 for low, high in reserved)
        if lacking > 0:
            reserved = tuple(sorted((*reserved, *await self._reserve(lacking))))
            lowest = reserved[0][0]
        return await self._jobs.save(job.with_progress(reserved=reserved, lowest=lowest))

    async def _taken(self, spans: Iterable[Span]) -> list[int]:
        """The stream orderings of some ranges that events have."""
        taken: list[int] = []
        for span in spans:
            rows = await self._database.rows(
                "taken",
                "SELECT stream_ordering FROM events WHERE stream_ordering BETWEEN ? AND ?",
                span,
            )
            taken += [ordering for (ordering,) in rows]
        return taken

    @override
    async def finish(self, job: ImportJob) -> None:
        await self._store.close_gaps(job.job_id)

    @override
    async def verify(
        self, events: Sequence[SourceEvent], skipped: Sequence[Skipped], cursor: Position
    ) -> StoreBatch:
        admitted, failed = await self._admission.check(
            self._room_id, self._room_version, events, self._keys_from
        )
        left_out = [*skipped, *failed]

        async def store(job: ImportJob, meanwhile: Callable[[], None]) -> ImportJob:
            return await self._take_in(job, admitted, left_out, cursor, meanwhile)

        return store

    async def _take_in(
        self,
        job: ImportJob,
        admitted: Sequence[Admitted],
        left_out: list[Skipped],
        cursor: Position,
        meanwhile: Callable[[], None],
    ) -> ImportJob:
        here = {a.event.event_id for a in admitted}
        await self._states.read({p for a in admitted for p in a.event.prev_event_ids()} - here)
        # Read at once, all of them are at hand when each is asked for.
        await self._checker.missing({i for a in admitted for i in a.event.auth_event_ids()} - here)
        # Not ahead: the batch before may bring some of these as outliers.
        outliers = await self._stored_outliers(here)
        pending: dict[str, Arriving] = {}

        async def flush(job: ImportJob, end: BatchEnd | None = None) -> ImportJob:
            job = await self._store.store(job, pending, outliers, end)
            pending.clear()
            self._states.stored()
            return job

        try:
            for one in admitted:
                if len(pending) >= _PER_TRANSACTION:
                    job = await flush(job)
                held = outliers.get(one.event.event_id)
                accepted = held is not None and not held.rejected
                found = await self._judge.decide(one, pending, accepted=accepted)
                if found is None:
                    # Synapse resolves states with the events as they are stored.
                    job = await flush(job)
                    found = await self._judge.decide(one, pending, accepted=accepted)
                if isinstance(found, Skipped):
                    left_out.append(found)
                    continue
                assert found is not None
                pending[one.event.event_id] = found
                self._states.take(one.event.event_id, found.context)
                self._checker.keep(one.event, bool(found.context.rejected))
                await self._clock.breathe()
            return await flush(job, BatchEnd(cursor, left_out, self._clock.from_thread(meanwhile)))
        except BaseException:
            # The groups were made known before the events were stored.
            self._states.failed()
            raise

    async def _stored_outliers(self, event_ids: Collection[str]) -> dict[str, Outlier]:
        """Those of the events that this server has as outliers."""
        rows = await self._database.rows_of(
            "stored_outliers",
            "SELECT e.event_id, e.stream_ordering, r.event_id IS NOT NULL FROM events AS e"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id WHERE e.outlier AND",
            event_ids,
            "e.event_id",
        )
        return {
            event_id: Outlier(ordering, bool(rejected)) for event_id, ordering, rejected in rows
        }
