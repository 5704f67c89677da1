"""Storing a room's old history through Synapse's own persistence: the `ImportWriter`."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

import attr
from synapse.api.constants import EventTypes, RejectedReason
from synapse.api.errors import AuthError, EventSizeError
from synapse.event_auth import validate_event_for_room_version
from synapse.events import EventBase, make_event_from_dict
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.types.state import StateFilter

from synapse_rejection_repair.adapter.admission import Admission, Admitted
from synapse_rejection_repair.adapter.arrivals import ArrivalHooks
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.integrity import IntegrityCheck
from synapse_rejection_repair.adapter.jobstore import SynapseJobStore
from synapse_rejection_repair.adapter.reader import SynapseReader
from synapse_rejection_repair.adapter.tables import JOURNAL
from synapse_rejection_repair.adapter.takeaway import TakenAway, take_away
from synapse_rejection_repair.domain.dag import in_order
from synapse_rejection_repair.domain.imports import (
    Held,
    ImportJob,
    ImportProgress,
    ImportRequest,
    Position,
    Skip,
    Skipped,
    SourceEvent,
    lowest_of,
)
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.model import (
    ACCEPTED,
    Check,
    Node,
    Outcome,
    StateIds,
    StateKey,
    Verdict,
)
from synapse_rejection_repair.ports import Clock, Source, StateLookup

_REMEMBERED_GROUPS = 20_000
"""Of how many events the state group is kept in memory."""

_REMEMBERED_CASES = 10_000
"""How many outcomes of the authorization rules are kept in memory."""

_PER_TRANSACTION = 100
"""How many events are handed to Synapse at once: as many as it stores in one transaction."""

_SEARCHED = (EventTypes.Message, EventTypes.Name, EventTypes.Topic)
"""The types of events that Synapse's search finds."""

_SKIPPED = "skip"
"""What the journal calls it when an event is left out."""

Jobs = SynapseJobStore[ImportRequest, ImportProgress]


class ArrivalChecker(EventChecker):
    """Checks events that are not stored yet, or not in full.

    Args: as for `EventChecker`.
    """

    def arrive(self, event: EventBase) -> None:
        """Takes an event to be checked next."""
        self._batch = {event.event_id: event}
        self._broken = {}

    def keep(self, event: EventBase, rejected: bool) -> None:
        """Takes an event as decided, and ready to be cited, before it is stored."""
        if not event.is_state():
            return
        if rejected:
            event = make_event_from_dict(
                event.get_pdu_json(), event.room_version, rejected_reason=RejectedReason.AUTH_ERROR
            )
        self._remembered[event.event_id] = event
        self._remembered.move_to_end(event.event_id)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class _Outcome:
    """What was found of one event, before it is stored."""

    admitted: Admitted
    context: EventContext
    skipped: Skipped | None


class SynapseImportTarget:
    """This server, as the place that history is imported into.

    Args:
        database: its main database.
        reader: reads rooms.
        admission: verifies events.
    """

    def __init__(self, database: Database, reader: SynapseReader, admission: Admission) -> None:
        self._database = database
        self._reader = reader
        self._admission = admission

    async def require_room(self, room_id: str) -> str:
        """The room's version.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: the room's version is not known.
            PartialState: the room's state is still being fetched.
            NotInRoom: no local user is joined.
        """
        await self._reader.require_repairable(room_id)
        return await self._reader.require_room(room_id)

    async def joined_rooms(self, room_ids: Collection[str]) -> set[str]:
        """Those of the rooms that a user of this server is in."""
        rows = await self._database.rows_of(
            "joined_rooms",
            "SELECT DISTINCT room_id FROM local_current_membership WHERE membership = 'join' AND",
            room_ids,
            "room_id",
        )
        return {room_id for (room_id,) in rows}

    async def held(self, event_ids: Collection[str]) -> dict[str, Held]:
        """How this server has those of the events that it has."""
        rows = await self._database.rows_of(
            "held",
            "SELECT e.event_id, e.outlier, r.event_id IS NOT NULL FROM events AS e"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id WHERE",
            event_ids,
            "e.event_id",
        )
        return {
            event_id: (
                Held.OUTLIER
                if outlier and not rejected
                else Held.REJECTED
                if rejected
                else Held.FULL
            )
            for event_id, outlier, rejected in rows
        }

    async def inspect(
        self, room_id: str, room_version: str, events: Sequence[SourceEvent]
    ) -> tuple[list[Skipped], list[str]]:
        """The events that cannot be had as they are, and those that would arrive redacted."""
        admitted, skipped = await self._admission.check(room_id, room_version, events)
        return skipped, [a.event.event_id for a in admitted if a.pruned]


class SynapseSkippedList:
    """Reads from the journal what imports have left out, or stored as rejected.

    Args:
        database: Synapse's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, job_id: str, page: Page) -> Listing[Skipped]:
        """The events that an import has skipped."""
        where = f"FROM {JOURNAL} WHERE job_id = ? AND action = ?"
        direction = "DESC" if page.backwards else "ASC"
        rows = await self._database.rows(
            "skipped",
            f"SELECT event_id, original_rows {where}"
            f" ORDER BY {page.order_by} {direction}, event_id {direction} LIMIT ? OFFSET ?",
            (job_id, _SKIPPED, page.limit, page.start),
        )
        ((total,),) = await self._database.rows(
            "count_skipped", f"SELECT COUNT(*) {where}", (job_id, _SKIPPED)
        )
        found = []
        for event_id, text in rows:
            why = json.loads(text)
            found.append(Skipped(event_id, Skip(why["reason"]), why["error"]))
        return Listing(found, total)


class SynapseImportWriter:
    """Stores events of one room as history, on the process that writes them.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        reader: reads rooms.
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
        reader: SynapseReader,
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
        self._storage = hs.get_storage_controllers()
        self._store = hs.get_datastores().main
        self._state_handler = hs.get_state_handler()
        self._federation = hs.get_federation_event_handler()
        self._database = database
        self._reader = reader
        self._admission = admission
        self._hooks = hooks
        self._arrivals = arrivals
        self._jobs = jobs
        self._clock = clock
        self._room_id = room_id
        self._room_version = room_version
        self._source = source
        self._keys_from = source if verify else None
        self._allowed: OrderedDict[_Case, None] = OrderedDict()
        self._checker = ArrivalChecker(hs, database, integrity, clock, room_id, room_version)
        self._groups: OrderedDict[str, int] = OrderedDict()
        self._pending: dict[str, _Outcome] = {}
        self._outliers: dict[str, int] = {}

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
        return await self._jobs.save(
            attr.evolve(job, progress=attr.evolve(progress, reserved=reserved, lowest=lowest))
        )

    async def _taken(self, stream_ordering: int | None) -> bool:
        rows = await self._database.rows(
            "taken", "SELECT 1 FROM events WHERE stream_ordering = ?", (stream_ordering,)
        )
        return bool(rows)

    async def store(
        self,
        job: ImportJob,
        events: Sequence[SourceEvent],
        cursor: Position | None,
        skipped: Sequence[Skipped],
    ) -> ImportJob:
        """Checks and stores some events, and notes in the same transactions how far it is.

        Args:
            job: the import.
            events: the events, parents first.
            cursor: the position before which everything is decided once they are stored.
            skipped: the events that have been skipped since the last call.
        """
        admitted, failed = await self._admission.check(
            self._room_id, self._room_version, events, self._keys_from
        )
        left_out = [*skipped, *failed]
        await self._remember_groups(admitted)
        self._outliers = await self._stored_outliers([a.event.event_id for a in admitted])
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
            return await self._flush(job, cursor, left_out, last=True)
        except BaseException:
            # The groups were made known before the events were stored.
            for event_id in self._pending:
                self._forget(event_id)
            raise

    def _forget(self, event_id: str) -> None:
        self._groups.pop(event_id, None)
        self._store._get_state_group_for_event.invalidate((event_id,))

    async def _remember_groups(self, admitted: Iterable[Admitted]) -> None:
        wanted = {p for a in admitted for p in a.event.prev_event_ids()}
        self._know(await self._reader.state_groups([p for p in wanted if p not in self._groups]))

    def _know(self, groups: dict[str, int]) -> None:
        self._groups.update(groups)
        while len(self._groups) > _REMEMBERED_GROUPS:
            self._groups.popitem(last=False)

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
        missing = await self._missing(event.auth_event_ids())
        if missing:
            if self._pending:
                return None
            missing = await self._bring_outliers(missing)
        if missing:
            return Skipped(
                event.event_id, Skip.MISSING_AUTH_EVENTS, f"Not to be had: {', '.join(missing)}"
            )
        prevs = event.prev_event_ids()
        groups = {p: self._groups[p] for p in prevs if p in self._groups}
        if len(groups) == len(set(prevs)) and (prevs or event.type == EventTypes.Create):
            resolves = len(set(groups.values())) > 1
            if resolves and any(o.admitted.event.is_state() for o in self._pending.values()):
                return None
            context = await self._context(event, groups)
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
        verdict = await self._verdict(event, context)
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
        rejected = bool(context.rejected)
        group = context.state_group_before_event if rejected else context.state_group
        if group is not None:
            self._know({event.event_id: group})
        self._checker.keep(event, rejected)

    async def _verdict(self, event: EventBase, context: EventContext | None) -> Verdict:
        case = _case(event, context)
        if case is not None and case in self._allowed:
            self._allowed.move_to_end(case)
            return _validity(event)
        self._checker.arrive(event)
        lookup = None if context is None else _lookup(context)
        verdict = await self._checker.check(_node(event), lookup, force=False)
        if case is not None and verdict.accepted:
            self._allowed[case] = None
            while len(self._allowed) > _REMEMBERED_CASES:
                self._allowed.popitem(last=False)
        return verdict

    async def _context(self, event: EventBase, groups: dict[str, int]) -> EventContext:
        distinct = set(groups.values())
        if len(distinct) == 1 and not event.is_state():
            group = distinct.pop()
            return EventContext.with_state(
                storage=self._storage,
                state_group=group,
                state_group_before_event=group,
                state_delta_due_to_event={},
                partial_state=False,
                state_group_deltas={},
            )
        # Synapse looks the state before the event up by its prev events, some of which
        # may not be stored yet.
        for prev, group in groups.items():
            if prev in self._pending:
                self._store._get_state_group_for_event.prefill((prev,), group)
        return await self._state_handler.compute_event_context(event)

    async def _context_at_gap(self, event: EventBase, source: SourceEvent) -> EventContext | None:
        """The state at an event that follows events that nobody has, as the source has it."""
        state = dict(await self._source.state_before(source))
        unknown = await self._reader.unknown_events(self._room_id, list(state.values()))
        lost = set(await self._bring_outliers(unknown))
        state = {key: event_id for key, event_id in state.items() if event_id not in lost}
        if not state:
            return None
        return await self._state_handler.compute_event_context(
            event, state_ids_before_event=state, partial_state=False
        )

    async def _missing(self, event_ids: Collection[str]) -> list[str]:
        """Those of the events that are neither stored, as whatever, nor about to be."""
        unseen = [i for i in event_ids if i not in self._pending]
        found = await self._checker.events(unseen)
        return [i for i in unseen if i not in found]

    async def _bring_outliers(self, event_ids: Collection[str]) -> list[str]:
        """Stores events, with what they cite, as outliers; gives those that cannot be had.

        They are part of a state at which the source has a gap, or cited by an event after
        it: the source itself has no state at them.
        """
        assert not self._pending
        wanted, found = set(event_ids), dict[str, Admitted]()
        unavailable: set[str] = set()
        while wanted:
            events = await self._source.events(self._room_id, wanted)
            admitted, _ = await self._admission.check(
                self._room_id, self._room_version, list(events.values()), self._keys_from
            )
            had = {a.event.event_id: a for a in admitted}
            unavailable |= wanted - had.keys()
            found.update(had)
            cited = {i for a in admitted for i in a.event.auth_event_ids()} - found.keys()
            wanted = set(await self._missing(cited - unavailable))

        pairs: list[tuple[EventBase, EventContext]] = []
        for node in in_order({i: _node(a.event) for i, a in found.items()}):
            event = found[node.event_id].event
            event.internal_metadata.outlier = True
            verdict = await self._verdict(event, None)
            if verdict.outcome is Outcome.UNKNOWN or verdict.check is Check.VALIDITY:
                unavailable.add(node.event_id)
                continue
            context = EventContext.for_outlier(self._storage)
            if not verdict.accepted:
                context.rejected = RejectedReason.AUTH_ERROR
            self._checker.keep(event, not verdict.accepted)
            pairs.append((event, context))
        if pairs:
            await self._federation.persist_events_and_notify(self._room_id, pairs, backfilled=True)
        return [i for i in event_ids if i in unavailable]

    async def _flush(
        self,
        job: ImportJob,
        cursor: Position | None = None,
        left_out: Sequence[Skipped] = (),
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
                self._journal(txn, job.job_id, now, left_out)
            noted = attr.evolve(current, progress=progress)
            noted = attr.evolve(noted, cancel_requested=self._jobs.save_in(txn, noted))

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
            if self._outliers.get(i, 0) < 0 and not one.context.rejected
        ]
        kept = {
            i
            for i, one in pending.items()
            if i in self._outliers and (self._outliers[i] >= 0 or one.context.rejected)
        }
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
        return current

    def _journal(
        self, txn: LoggingTransaction, job_id: str, now: int, left_out: Sequence[Skipped]
    ) -> None:
        txn.execute_batch(
            f"INSERT INTO {JOURNAL} (job_id, event_id, action, ts, original_rows)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (
                    job_id,
                    s.event_id,
                    _SKIPPED,
                    now,
                    json.dumps({"reason": s.reason.value, "error": s.error}),
                )
                for s in left_out
            ],
        )


_Case = tuple[str, str, tuple[str, ...], int]


def _case(event: EventBase, context: EventContext | None) -> _Case | None:
    """What the authorization rules look at of a message; `None` where they look at more.

    Of an event that is neither state nor a redaction, the rules see nothing but who sent
    it, its type, and the events that they are run against ("Authorization rules" of the
    room versions).
    """
    if context is None or context.state_group_before_event is None:
        return None
    if event.is_state() or event.type == EventTypes.Redaction:
        return None
    group = context.state_group_before_event
    return (event.type, event.sender, tuple(event.auth_event_ids()), group)


def _validity(event: EventBase) -> Verdict:
    try:
        validate_event_for_room_version(event)
    except (AuthError, EventSizeError) as e:
        return Verdict(Outcome.REJECT, Check.VALIDITY, e.msg)
    return ACCEPTED


def _node(event: EventBase) -> Node:
    return Node(
        event_id=event.event_id,
        type=event.type,
        state_key=event.get_state_key(),
        sender=event.sender,
        origin_server_ts=event.origin_server_ts,
        depth=event.depth,
        stream_ordering=event.depth,
        prev_event_ids=(),
        auth_event_ids=tuple(event.auth_event_ids()),
    )


def _lookup(context: EventContext) -> StateLookup:
    async def lookup(keys: Collection[StateKey]) -> StateIds:
        return await context.get_prev_state_ids(StateFilter.from_types(keys))

    return lookup
