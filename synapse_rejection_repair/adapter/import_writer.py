"""Storing a room's old history through Synapse's own persistence: the `ImportWriter`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import attr
from synapse.api.constants import EventTypes, RejectedReason
from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction

from synapse_rejection_repair.adapter.admission import Admission, Admitted
from synapse_rejection_repair.adapter.arrival_checker import ArrivalChecker
from synapse_rejection_repair.adapter.arrival_outliers import ArrivalOutliers
from synapse_rejection_repair.adapter.arrival_states import ArrivalStates
from synapse_rejection_repair.adapter.arrivals import ArrivalHooks
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.group_states import GroupStates
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.integrity import IntegrityCheck
from synapse_rejection_repair.adapter.jobstore import SynapseJobStore
from synapse_rejection_repair.adapter.rooms import SynapseRooms
from synapse_rejection_repair.adapter.skipped import SKIPPED, journal_skipped
from synapse_rejection_repair.adapter.takeaway import TakenAway, take_away
from synapse_rejection_repair.domain.imports import (
    ImportJob,
    ImportProgress,
    ImportRequest,
    Skip,
    Skipped,
    lowest_of,
)
from synapse_rejection_repair.domain.model import Check
from synapse_rejection_repair.domain.source import Position, SourceEvent
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import Source, StoreBatch

_PER_TRANSACTION = 100
"""How many events are handed to Synapse at once: as many as it stores in one transaction."""

Jobs = SynapseJobStore[ImportRequest, ImportProgress]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class _Outcome:
    """What was found of one event, before it is stored."""

    admitted: Admitted
    context: EventContext
    skipped: Skipped | None


class SynapseImportWriter:
    """Stores events of one room as history, on the process that writes them.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        rooms: knows rooms.
        dag: knows events.
        admission: verifies events.
        integrity: what the checker verifies stored events with.
        hooks: take stored events away while they are stored anew.
        arrivals: the import's own part in Synapse's persistence.
        jobs: the imports.
        clock: tells the time.
        room_id: the room.
        room_version: its version's identifier.
        source: the old database.
        verify: check signatures as well.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        rooms: SynapseRooms,
        dag: SynapseDag,
        admission: Admission,
        integrity: IntegrityCheck,
        hooks: PersistenceHooks,
        arrivals: ArrivalHooks,
        jobs: Jobs,
        clock: Clock,
        room_id: str,
        room_version: str,
        source: Source,
        verify: bool,
    ) -> None:
        self._store = hs.get_datastores().main
        self._federation = hs.get_federation_event_handler()
        self._database = database
        self._rooms = rooms
        self._admission = admission
        self._hooks = hooks
        self._arrivals = arrivals
        self._jobs = jobs
        self._clock = clock
        self._room_id = room_id
        self._room_version = room_version
        self._source = source
        self._keys_from = source if verify else None
        groups = GroupStates(hs)
        checker = EventChecker(hs, database, integrity, clock, room_id, room_version)
        self._checker = ArrivalChecker(checker, groups.entries)
        self._states = ArrivalStates(hs, dag, groups)
        self._outliers = ArrivalOutliers(
            hs, admission, self._checker, source, room_id, room_version, self._keys_from
        )
        self._pending: dict[str, _Outcome] = {}
        self._had_as_outliers: dict[str, int] = {}

    async def prepare(self, job: ImportJob, count: int) -> ImportJob:
        """Sets the stream orderings aside that so many events need; gives the saved job.

        What was set aside before the server was last started still is, provided that
        the first of it was used: Synapse goes on below the lowest that it finds.
        """
        progress = job.progress
        reserved, lowest = progress.reserved, progress.lowest
        if not await self._taken(lowest):
            reserved, lowest = (), None
        lacking = count - sum(high - low + 1 for low, high in reserved)
        if lacking > 0:
            reserved = tuple(sorted((*reserved, *await self._arrivals.reserve(lacking))))
            lowest = lowest or reserved[0][0]
        return await self._jobs.save(job.with_progress(reserved=reserved, lowest=lowest))

    async def _taken(self, stream_ordering: int | None) -> bool:
        rows = await self._database.rows(
            "taken", "SELECT 1 FROM events WHERE stream_ordering = ?", (stream_ordering,)
        )
        return bool(rows)

    async def verify(
        self, events: Sequence[SourceEvent], skipped: Sequence[Skipped], cursor: Position
    ) -> StoreBatch:
        """Verifies some events, which may be done while those before them are stored.

        Args:
            events: the events, parents first.
            skipped: the events that have been skipped since the last call.
            cursor: the position before which everything is decided once they are stored.

        Returns:
            What stores them.
        """
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
        self._had_as_outliers = await self._stored_outliers(here)
        try:
            for one in admitted:
                if len(self._pending) >= _PER_TRANSACTION:
                    job = await self._flush(job)
                found = await self._decide(one)
                if found is None:
                    # Synapse resolves states with the events as they are stored.
                    job = await self._flush(job)
                    found = await self._decide(one)
                if isinstance(found, Skipped):
                    left_out.append(found)
                    continue
                assert found is not None
                self._take(found)
                if found.skipped is not None:
                    left_out.append(found.skipped)
                await self._clock.breathe()
            return await self._flush(
                job, cursor, left_out, self._clock.from_thread(meanwhile), last=True
            )
        except BaseException:
            # The groups were made known before the events were stored.
            self._states.failed()
            raise

    async def _stored_outliers(self, event_ids: Collection[str]) -> dict[str, int]:
        """The stream orderings of those of the events that this server has as outliers."""
        rows = await self._database.rows_of(
            "stored_outliers",
            "SELECT event_id, stream_ordering FROM events WHERE outlier AND",
            event_ids,
            "event_id",
        )
        return dict(rows)

    async def _decide(self, admitted: Admitted) -> _Outcome | Skipped | None:
        """What becomes of an event; `None` if what is pending has to be stored first."""
        event, source = admitted.event, admitted.source
        cited = [i for i in event.auth_event_ids() if i not in self._pending]
        missing = await self._checker.missing(cited)
        if missing:
            if self._pending:
                return None
            missing = await self._outliers.bring(missing)
        if missing:
            return Skipped(
                event.event_id, Skip.MISSING_AUTH_EVENTS, f"Not to be had: {', '.join(missing)}"
            )
        prevs = event.prev_event_ids()
        groups = self._states.groups(prevs)
        if len(groups) == len(set(prevs)) and (prevs or event.type == EventTypes.Create):
            resolves = len(set(groups.values())) > 1
            if resolves and any(o.admitted.event.is_state() for o in self._pending.values()):
                return None
            context = await self._states.after(event, groups)
        else:
            if self._pending:
                return None
            at_gap = await self._context_at_gap(event, source)
            if at_gap is None:
                return Skipped(event.event_id, Skip.UNKNOWN_STATE)
            context = at_gap
        if source.rejected:
            context.rejected = RejectedReason.AUTH_ERROR
            return _Outcome(admitted, context, Skipped(event.event_id, Skip.REJECTED_BY_SOURCE))
        verdict = await self._checker.verdict(event, context.state_group_before_event)
        if verdict.accepted:
            return _Outcome(admitted, context, None)
        if verdict.check is Check.VALIDITY:
            return Skipped(event.event_id, Skip.MALFORMED, verdict.error)
        context.rejected = RejectedReason.AUTH_ERROR
        reason = Skip.STATE_BEFORE if verdict.check is Check.STATE_BEFORE else Skip.AUTH_EVENTS
        return _Outcome(admitted, context, Skipped(event.event_id, reason, verdict.error))

    def _take(self, found: _Outcome) -> None:
        event, context = found.admitted.event, found.context
        self._pending[event.event_id] = found
        self._states.take(event.event_id, context)
        self._checker.keep(event, bool(context.rejected))

    async def _context_at_gap(self, event: EventBase, source: SourceEvent) -> EventContext | None:
        """The state at an event that follows events that nobody has, as the source has it."""
        state = dict(await self._source.state_before(source))
        unknown = await self._rooms.unknown_events(self._room_id, list(state.values()))
        lost = set(await self._outliers.bring(unknown))
        state = {key: event_id for key, event_id in state.items() if event_id not in lost}
        if not state:
            return None
        return await self._states.given(event, state)

    async def _flush(
        self,
        job: ImportJob,
        cursor: Position | None = None,
        left_out: Sequence[Skipped] = (),
        meanwhile: Callable[[], None] | None = None,
        *,
        last: bool = False,
    ) -> ImportJob:
        """Stores what is pending, with the job's progress in the same transaction."""
        if not self._pending and not last:
            return job
        pending, now = dict(self._pending), self._clock.now_ms()
        current = job
        stored_before: set[str] = set()

        def note(txn: LoggingTransaction, event_ids: Collection[str]) -> None:
            nonlocal current
            new = set(event_ids) - stored_before
            progress = current.progress.stored(
                imported=sum(pending[i].skipped is None for i in new),
                orderings=sum(i in orderings for i in new),
            )
            if last and stored_before | new >= pending.keys():
                progress = progress.passed(cursor, left_out)
                why = [(s.event_id, {"reason": s.reason.value, "error": s.error}) for s in left_out]
                journal_skipped(txn, job.job_id, SKIPPED, now, why)
            noted = attr.evolve(current, progress=progress)
            noted = attr.evolve(noted, cancel_requested=self._jobs.save_in(txn, noted))
            if meanwhile is not None:
                # What is left is the commit, which is the one thing that needs no Python.
                meanwhile()

            def commit() -> None:
                nonlocal current
                current = noted
                stored_before.update(new)

            txn.call_after(commit)

        def take(txn: LoggingTransaction, event_ids: Collection[str]) -> TakenAway:
            self._store._invalidate_cache_and_stream_bulk(
                txn, self._store._get_state_group_for_event, [(i,) for i in event_ids]
            )
            return take_away(txn, self._room_id, event_ids, event_ids, job.job_id, "import", now)

        # An outlier that was received live is known to clients by its ordering: it keeps it.
        anew = [
            i
            for i, one in pending.items()
            if self._had_as_outliers.get(i, 0) < 0 and not one.context.rejected
        ]
        kept = self._had_as_outliers.keys() - set(anew)
        ordered = [i for i in pending if i not in kept]
        orderings = dict(zip(ordered, lowest_of(job.progress.reserved, len(ordered)), strict=False))
        if not pending:
            await self._database.run("note_import", note, ())
        else:
            pairs = [(one.admitted.event, one.context) for one in pending.values()]
            with (
                self._hooks.storing_anew(anew, take),
                self._arrivals.arriving(list(pending), orderings, note),
            ):
                await self._federation.persist_events_and_notify(
                    self._room_id, pairs, backfilled=True
                )
            self._pending.clear()
            self._states.stored()
        return current
