"""Storing events that arrive as history, with the import's progress in the same transaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

import attr
from synapse.api.constants import EventTypes
from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction

from synapse_rejection_repair.adapter.arrival_judge import Arriving
from synapse_rejection_repair.adapter.arrivals import ArrivalHooks
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.ex_outliers import complete
from synapse_rejection_repair.adapter.failures import raise_unless_of_an_event
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.jobstore import SynapseJobStore
from synapse_rejection_repair.adapter.newest import extend_threads
from synapse_rejection_repair.adapter.skipped import SKIPPED, note_skipped
from synapse_rejection_repair.adapter.tables import JOURNAL
from synapse_rejection_repair.adapter.takeaway import TakenAway, delete, take_away
from synapse_rejection_repair.domain.imports import (
    ImportJob,
    ImportProgress,
    ImportRequest,
    Skip,
    Skipped,
)
from synapse_rejection_repair.domain.source import Position
from synapse_rejection_repair.domain.spans import lowest_of
from synapse_rejection_repair.domain.traces import trace
from synapse_rejection_repair.errors import NotInRoom
from synapse_rejection_repair.ports import Clock

logger = logging.getLogger(__name__)

Jobs = SynapseJobStore[ImportRequest, ImportProgress]

_SEARCHED = frozenset({EventTypes.Message, EventTypes.Name, EventTypes.Topic})
"""The types of events that can be searched for.

`PersistEventsStore._update_metadata_tables_txn` (read in Synapse 1.151.0 and 1.163.2) has no others
in the search index.
"""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Outlier:
    """How this server has an event without the state at it.

    Attributes:
        stream_ordering: where it stands.
        rejected: it failed the authorization rules when it came.
    """

    stream_ordering: int
    rejected: bool

    def stored_anew(self, rejected: bool) -> bool:
        """Whether its rows make way for the event, and not only for the state at it.

        One that was received live is known to clients by its ordering: it keeps it. One that is to
        be rejected only now stays as it is, since a state may hold it.

        Args:
            rejected: it is to be stored as rejected.
        """
        return self.rejected or (self.stream_ordering < 0 and not rejected)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class BatchEnd:
    """What is noted with the last events of a batch.

    Attributes:
        cursor: the position before which everything is decided.
        left_out: the events that have been skipped, and are not stored.
        meanwhile: called once storing needs little of Python, again if a transaction is.
    """

    cursor: Position
    left_out: Sequence[Skipped]
    meanwhile: Callable[[], None]


@attr.s(auto_exc=True, auto_attribs=True)
class NotStored(Exception):
    """Synapse has failed to store some events, and it may be for something about one of them.

    Attributes:
        job: the import, with its progress up to there.
        stored: those of the events that are stored all the same, not all.
        error: what Synapse has raised.
    """

    job: ImportJob
    stored: frozenset[str]
    error: Exception


class ArrivalStore:
    """Stores events of one room, on the process that writes them.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        hooks: take stored events away while they are stored anew.
        arrivals: the import's own part in Synapse's persistence.
        jobs: the imports.
        clock: tells the time.
        room_id: the room.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        hooks: PersistenceHooks,
        arrivals: ArrivalHooks,
        jobs: Jobs,
        clock: Clock,
        room_id: str,
    ) -> None:
        self._store = hs.get_datastores().main
        self._federation = hs.get_federation_event_handler()
        self._database = database
        self._hooks = hooks
        self._arrivals = arrivals
        self._jobs = jobs
        self._clock = clock
        self._room_id = room_id

    async def store(
        self,
        job: ImportJob,
        events: Mapping[str, Arriving],
        outliers: Mapping[str, Outlier],
        end: BatchEnd | None = None,
    ) -> ImportJob:
        """Stores some events; gives the job with its progress.

        Args:
            job: the import.
            events: the events by id, parents first.
            outliers: those that this server has as outliers, by id.
            end: what is noted with them; `None` if more of the batch follows.

        Raises:
            NotInRoom: the room has been purged meanwhile.
            NotStored: Synapse, which stores a hundred in a transaction, failed in one of these.
        """
        if not events and end is None:
            return job
        now = self._clock.now_ms()

        def take(txn: LoggingTransaction, event_ids: Collection[str]) -> TakenAway:
            self._store._invalidate_cache_and_stream_bulk(
                txn, self._store._get_state_group_for_event, [(i,) for i in event_ids]
            )
            searched = [i for i in event_ids if events[i].admitted.event.type in _SEARCHED]
            return take_away(txn, self._room_id, event_ids, searched, job.job_id, "import", now)

        anew = [
            i
            for i, one in events.items()
            if i in outliers and outliers[i].stored_anew(bool(one.context.rejected))
        ]
        kept = outliers.keys() - set(anew)
        ordered = [i for i in events if i not in kept]
        orderings = dict(zip(ordered, lowest_of(job.progress.reserved, len(ordered)), strict=False))
        progress = _Progress(self._jobs, job, events, orderings, end, now)
        pdus = {i: one.admitted.event for i, one in events.items()}
        if not events:
            await self._database.run("note_import", progress.note, ())
            return progress.job

        def stored(txn: LoggingTransaction, event_ids: Collection[str]) -> None:
            self._require_room(txn)
            # Synapse sees to this for accepted events alone: clients would ask others for these.
            rejected = [i for i in event_ids if events[i].context.rejected]
            if rejected:
                delete(txn, "event_backward_extremities", rejected)
            completes = [i for i in event_ids if i in kept and not events[i].context.rejected]
            if completes:
                complete(txn, job.job_id, "import", now, pdus, completes)
            extend_threads(txn, self._room_id, event_ids)
            progress.note(txn, event_ids)
            if end is not None:
                end.meanwhile()

        with (
            self._hooks.storing_anew(anew, take),
            self._arrivals.arriving(list(events), orderings, stored, unread=True),
        ):
            try:
                await self._federation.persist_events_and_notify(
                    self._room_id,
                    [(one.admitted.event, one.context) for one in events.values()],
                    backfilled=True,
                )
            except Exception as e:
                raise_unless_of_an_event(self._database, e)
                if progress.event_ids < events.keys():
                    raise NotStored(progress.job, frozenset(progress.event_ids), e) from e
                logger.error(
                    "Synapse failed over %i events of %s that are stored\n%s",
                    len(events),
                    self._room_id,
                    trace(e),
                )
        return progress.job

    async def close_gaps(self, job_id: str) -> None:
        """Lets nobody ask others for events that cannot arrive from anywhere.

        Synapse takes each for a gap, and again with each event that follows it, where it is not
        stored or an outlier: `PersistEventsStore._update_backward_extremeties` (read in Synapse
        1.151.0 and 1.163.2).

        Args:
            job_id: the import.
        """

        def close(txn: LoggingTransaction) -> None:
            txn.execute(
                "SELECT be.event_id, j.original_rows FROM event_backward_extremities AS be"
                f" INNER JOIN {JOURNAL} AS j ON j.event_id = be.event_id"
                " WHERE be.room_id = ? AND j.job_id = ? AND j.action = ?",
                (self._room_id, job_id, SKIPPED),
            )
            left = [i for i, why in txn.fetchall() if Skip(json.loads(why)["reason"]).final]
            if left:
                delete(txn, "event_backward_extremities", left)

        await self._database.run("close_gaps", close)

    def _require_room(self, txn: LoggingTransaction) -> None:
        """Undoes all of a transaction if the room has been purged: it would come back in pieces."""
        txn.execute(
            "SELECT 1 FROM event_forward_extremities WHERE room_id = ? LIMIT 1", (self._room_id,)
        )
        if txn.fetchone() is None:
            raise NotInRoom(self._room_id)


class _Progress:
    """An import's progress, as the transactions that store some events note it.

    Attributes:
        job: the import, with what is committed so far.
        event_ids: those of the events that are committed.

    Args:
        jobs: the imports.
        job: the import as it was before.
        events: the events by id.
        orderings: the stream orderings that were set aside and are used up.
        end: what is noted with the last of them.
        now_ms: the time, in milliseconds.
    """

    def __init__(
        self,
        jobs: Jobs,
        job: ImportJob,
        events: Mapping[str, Arriving],
        orderings: Mapping[str, int],
        end: BatchEnd | None,
        now_ms: int,
    ) -> None:
        self.job = job
        self.event_ids: set[str] = set()
        self._jobs = jobs
        self._events = events
        self._orderings = orderings
        self._end = end
        self._now_ms = now_ms

    def note(self, txn: LoggingTransaction, event_ids: Collection[str]) -> None:
        """Notes that some of the events are stored, once their transaction is committed."""
        new, end = set(event_ids) - self.event_ids, self._end
        progress = self.job.progress.stored(
            imported=sum(self._events[i].skipped is None for i in new),
            # Not the lowest so many: others may have stored one of the events on its own.
            orderings=[self._orderings[i] for i in new if i in self._orderings],
        )
        # With what is stored: read again after a kill, it would be what was rejected here.
        left_out = [one.skipped for i, one in self._events.items() if i in new and one.skipped]
        cursor = None
        if end is not None and self.event_ids | new >= self._events.keys():
            left_out += end.left_out
            cursor = end.cursor
        noted = note_skipped(txn, self.job.job_id, self._now_ms, left_out)
        job = attr.evolve(self.job, progress=progress.passed(cursor, noted))
        job = attr.evolve(job, cancel_requested=self._jobs.save_in(txn, job))

        def commit() -> None:
            self.job = job
            self.event_ids |= new

        txn.call_after(commit)
