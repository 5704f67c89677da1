"""Storing a room's old history through Synapse's own persistence, a batch at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from synapse.server import HomeServer
from typing_extensions import override

from synapse_rejection_repair.adapter.admission import Admission, Admitted, SourceKeys
from synapse_rejection_repair.adapter.arrival_checker import ArrivalChecker
from synapse_rejection_repair.adapter.arrival_judge import ArrivalJudge, Arriving
from synapse_rejection_repair.adapter.arrival_outliers import ArrivalOutliers
from synapse_rejection_repair.adapter.arrival_states import ArrivalStates
from synapse_rejection_repair.adapter.arrival_store import (
    ArrivalStore,
    BatchEnd,
    Jobs,
    NotStored,
    Outlier,
)
from synapse_rejection_repair.adapter.arrivals import ArrivalHooks
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.failures import in_words
from synapse_rejection_repair.adapter.group_states import GroupStates
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.page_cache import larger_page_cache
from synapse_rejection_repair.adapter.rooms import SynapseRooms
from synapse_rejection_repair.domain.imports import ImportJob, ImportRequest, Skip, Skipped
from synapse_rejection_repair.domain.source import Position, SourceEvent
from synapse_rejection_repair.domain.spans import Span, without
from synapse_rejection_repair.domain.traces import trace
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import ImportWriter, Source, StoreBatch

logger = logging.getLogger(__name__)

_ON_SQLITE = 100
_ON_POSTGRES = 400
"""How many events are stored at a time. With more, what is done once for all of them costs less
(`bench.import_ways`); on SQLite that gained nothing.
"""

_PER_TRANSACTION = 100
"""How many Synapse stores in one transaction: among so many is what it has failed to store."""

_MOST_IN_A_ROW = 10
"""How many may fail to be stored one after the other: with more it is nothing about the events."""


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
        self.at_once = _ON_SQLITE if database.shared_connection else _ON_POSTGRES
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
        self._in_a_row = 0
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
        end = BatchEnd(cursor, left_out, self._clock.from_thread(meanwhile))
        pending: dict[str, Arriving] = {}
        todo = deque(admitted)
        try:
            while True:
                while todo:
                    one = todo[0]
                    held = outliers.get(one.event.event_id)
                    accepted = held is not None and not held.rejected
                    found = await self._judge.decide(one, pending, accepted=accepted)
                    if found is None:
                        # Synapse resolves states with the events as they are stored.
                        break
                    todo.popleft()
                    if isinstance(found, Skipped):
                        left_out.append(found)
                        continue
                    pending[one.event.event_id] = found
                    self._states.take(one.event.event_id, found.context)
                    self._checker.keep_unstored(one.event, bool(found.context.rejected))
                    await self._clock.breathe()
                last = None if todo else end
                job, again = await self._flush(job, pending, outliers, left_out, last)
                pending.clear()
                if last is not None and not again:
                    return job
                todo.extendleft(reversed(again))
        except BaseException:
            # The groups were made known before the events were stored.
            self._states.failed()
            raise

    async def _flush(
        self,
        job: ImportJob,
        pending: Mapping[str, Arriving],
        outliers: Mapping[str, Outlier],
        left_out: list[Skipped],
        end: BatchEnd | None,
    ) -> tuple[ImportJob, list[Admitted]]:
        """Stores events at once or, those among which Synapse fails, one by one.

        Args:
            job: the import.
            pending: the events by id, parents first.
            outliers: those that this server has as outliers, by id.
            left_out: takes those that cannot be stored.
            end: what is noted with the last of them; `None` if more of the batch follows.

        Returns:
            The job with its progress, and what is to be judged anew: all behind a state event
            that cannot be stored.
        """
        waiting = deque(pending.values())
        while True:
            events = {one.admitted.event.event_id: one for one in waiting}
            try:
                job = await self._store.store(job, events, outliers, end)
                break
            except NotStored as e:
                job = e.job
                waiting = deque(one for i, one in events.items() if i not in e.stored)
                if e.stored:
                    self._in_a_row = 0
            some = min(len(waiting), _PER_TRANSACTION)
            logger.warning("%i events of %s are stored one by one", some, self._room_id)
            for _ in range(some):
                one = waiting.popleft()
                job, stored = await self._store_alone(job, one, outliers, left_out)
                if not stored and one.admitted.event.is_state() and waiting:
                    for behind in waiting:
                        self._forget(behind)
                    self._all_stored()
                    return job, [behind.admitted for behind in waiting]
        # To note the end of a batch alone says nothing about its events.
        if waiting:
            self._in_a_row = 0
        self._all_stored()
        return job, []

    async def _store_alone(
        self,
        job: ImportJob,
        one: Arriving,
        outliers: Mapping[str, Outlier],
        left_out: list[Skipped],
    ) -> tuple[ImportJob, bool]:
        """Stores an event and, where Synapse fails at that, lets a repair see to it.

        Returns:
            The job with its progress, and whether the event is stored as it is.
        """
        event = one.admitted.event
        try:
            job = await self._store.store(job, {event.event_id: one}, outliers)
        except NotStored as e:
            logger.error("%s cannot be stored\n%s", event.event_id, trace(e.error))
            self._in_a_row += 1
            held = outliers.get(event.event_id)
            in_states = event.is_state() and held is not None and not held.rejected
            # No repair would find that it is missing in the states behind it.
            if in_states or self._in_a_row > _MOST_IN_A_ROW:
                raise e.error from None
            spare = one.as_rejected(Skip.UNSTORABLE, in_words(e.error))
            return await self._store_spare(e.job, spare, outliers, left_out), False
        self._in_a_row = 0
        return job, True

    async def _store_spare(
        self,
        job: ImportJob,
        spare: Arriving,
        outliers: Mapping[str, Outlier],
        left_out: list[Skipped],
    ) -> ImportJob:
        """Stores an event as rejected, so that a repair can let it in, or else leaves it out."""
        event = spare.admitted.event
        self._forget(spare)
        try:
            job = await self._store.store(job, {event.event_id: spare}, outliers)
        except NotStored as e:
            assert spare.skipped is not None
            left_out.append(spare.skipped)
            return e.job
        self._states.take(event.event_id, spare.context)
        self._checker.keep_unstored(event, rejected=True)
        return job

    def _all_stored(self) -> None:
        self._states.stored()
        self._checker.stored()

    def _forget(self, one: Arriving) -> None:
        self._states.forget(one.admitted.event.event_id)
        self._checker.forget(one.admitted.event.event_id)

    async def _stored_outliers(self, event_ids: Collection[str]) -> dict[str, Outlier]:
        """Those of the events that this server has as outliers."""
        rows = await self._database.rows_of(
            "stored_outliers",
            "SELECT e.event_id, e.stream_ordering,"
            " EXISTS (SELECT 1 FROM rejections AS r WHERE r.event_id = e.event_id)"
            " FROM events AS e WHERE e.outlier AND",
            event_ids,
            "e.event_id",
        )
        return {
            event_id: Outlier(ordering, bool(rejected)) for event_id, ordering, rejected in rows
        }
