"""Where Synapse's persistence lets an import, or a repair, take part in its work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attr
from synapse.events.snapshot import EventPersistencePair
from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction, make_in_list_sql_clause

from synapse_rejection_repair.adapter.search_entries import SearchEntries
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.spans import Span, spans_of, together

Stored = Callable[[LoggingTransaction, Collection[str]], None]

_RESERVED_AT_ONCE = 10_000
"""How many stream orderings are asked for at once: Synapse holds a lock meanwhile."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class _Arrival:
    orderings: Mapping[str, int]
    stored: Stored
    unread: bool
    given: dict[str, int] = attr.Factory(dict)


class ArrivalHooks:
    """Lets an import choose the stream orderings of its events, and write in their transaction.

    Synapse hands negative stream orderings out counting down. Parents have to be stored
    first, so among events of one depth, where it goes by stream orderings, it would show
    the older one as the newer. So a range is set aside beforehand, and given out from the
    lowest up.

    Wraps `PersistEventsStore._persist_events_txn`, `_add_to_cache` and, where Synapse has it,
    `_apply_existing_redaction_txn`, on the object of this process (read in Synapse 1.151.0
    and 1.163.2). For events that no import has announced they only look into an empty dict.

    Args:
        hs: a homeserver process that writes events.
    """

    def __init__(self, hs: HomeServer) -> None:
        self._arriving: dict[str, _Arrival] = {}
        self._instance_name = hs.get_instance_name()
        self._replicates = hs.config.redis.redis_enabled
        # Any: its methods are put over on this object, some of which not every Synapse has.
        persist_events: Any = hs.get_datastores().persist_events
        assert persist_events is not None
        self._persist_events = persist_events
        self._id_gen = persist_events._backfill_id_gen
        self._search_entries = SearchEntries(hs)

        self._persist_txn = persist_events._persist_events_txn
        persist_events._persist_events_txn = self._persist_events_txn
        self._cache_txn = persist_events._add_to_cache
        persist_events._add_to_cache = self._add_to_cache
        self._redact_txn: Any = getattr(persist_events, "_apply_existing_redaction_txn", None)
        if self._redact_txn is not None:
            persist_events._apply_existing_redaction_txn = self._apply_existing_redaction_txn

    async def reserve(self, count: int) -> tuple[Span, ...]:
        """Sets so many stream orderings of the past aside, lower than all that were given out."""
        spans: tuple[Span, ...] = ()
        while count > 0:
            some = min(_RESERVED_AT_ONCE, count)
            async with self._id_gen.get_next_mult(some) as orderings:
                spans = together(spans, spans_of(orderings))
            count -= some
        return spans

    @contextmanager
    def arriving(
        self,
        event_ids: Collection[str],
        orderings: Mapping[str, int],
        stored: Stored,
        *,
        unread: bool = False,
    ) -> Iterator[None]:
        """While it lasts, storing one of the events is part of an import, or a repair.

        Args:
            event_ids: the events.
            orderings: the stream orderings of those of them that get one.
            stored: called in the transaction that stores them, with those of the events
                that it stores; may be called again with the same ones.
            unread: they are so old that nobody is about to read them.
        """
        arrival = _Arrival(orderings, stored, unread)
        self._arriving.update(dict.fromkeys(event_ids, arrival))
        try:
            yield
        finally:
            for event_id in event_ids:
                self._arriving.pop(event_id, None)

    def _persist_events_txn(self, txn: LoggingTransaction, **kwargs: Any) -> None:
        ours: dict[str, _Arrival] = {}
        if self._arriving:
            for event, _ in kwargs["events_and_contexts"]:
                arrival = self._arriving.get(event.event_id)
                if arrival is None:
                    continue
                ours[event.event_id] = arrival
                metadata = event.internal_metadata
                # Called again, the event already has the ordering that was chosen.
                arrival.given.setdefault(event.event_id, metadata.stream_ordering)
                if event.event_id in arrival.orderings:
                    metadata.stream_ordering = arrival.orderings[event.event_id]
        if not ours:
            self._persist_txn(txn, **kwargs)
            return
        with self._search_entries.together(txn):
            self._persist_txn(txn, **kwargs)
        rooms = {event.event_id: event.room_id for event, _ in kwargs["events_and_contexts"]}
        self._forget_redacted_relations(txn, ours, rooms)
        if self._replicates and any(arrival.orderings for arrival in ours.values()):
            self._tell_workers(txn, ours)
        stored: dict[Stored, list[str]] = {}
        for event_id, arrival in ours.items():
            stored.setdefault(arrival.stored, []).append(event_id)
        for callback, event_ids in stored.items():
            callback(txn, event_ids)

    def _forget_redacted_relations(
        self, txn: LoggingTransaction, ours: Collection[str], rooms: dict[str, str]
    ) -> None:
        """Takes the relations of what is redacted away.

        Synapse does it where the redaction comes in a later transaction or, in newer versions,
        came in an earlier one. In one transaction it looks for relations before it writes them.

        Args:
            txn: the transaction.
            ours: the events of an import that it stores.
            rooms: the rooms of all that it stores; takes those of other events.
        """
        clause, args = make_in_list_sql_clause(txn.database_engine, "redacts", ours)
        txn.execute(f"SELECT redacts, event_id FROM redactions WHERE {clause}", args)
        pairs = txn.fetchall()
        # Not joined: PostgreSQL, where it was never analysed, takes long for that.
        for some in batches({event_id for pair in pairs for event_id in pair} - rooms.keys()):
            clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", some)
            txn.execute(f"SELECT event_id, room_id FROM events WHERE {clause}", args)
            rooms.update(txn.fetchall())
        for redacted in {one for one, by in pairs if one in rooms and rooms[one] == rooms.get(by)}:
            self._persist_events._handle_redact_relations(txn, rooms[redacted], redacted)

    def _tell_workers(self, txn: LoggingTransaction, ours: Mapping[str, _Arrival]) -> None:
        """Sends the events to the other processes under the orderings that Synapse gave them.

        Those follow the stream of backfilled events, and are past the range that was set
        aside. `ex_outlier_stream` is how Synapse itself sends an event again that keeps an
        earlier ordering.
        """
        txn.execute_batch(
            "INSERT INTO ex_outlier_stream"
            " (event_stream_ordering, event_id, state_group, instance_name)"
            " SELECT ?, event_id, state_group, ? FROM event_to_state_groups WHERE event_id = ?"
            " ON CONFLICT DO NOTHING",
            [
                (arrival.given[event_id], self._instance_name, event_id)
                for event_id, arrival in ours.items()
                if event_id in arrival.orderings
            ],
        )

    def _add_to_cache(
        self, txn: LoggingTransaction, events_and_contexts: list[EventPersistencePair]
    ) -> None:
        """Leaves Synapse's cache to the events that somebody reads.

        An old history would push all of them out. What the cache had of its events is gone by
        then: Synapse forgets whatever it stores at the beginning of the transaction.
        """

        def unread(event_id: str) -> bool:
            arrival = self._arriving.get(event_id)
            return arrival is not None and arrival.unread

        read = [one for one in events_and_contexts if not unread(one[0].event_id)]
        self._cache_txn(txn, read)

    def _apply_existing_redaction_txn(
        self, txn: LoggingTransaction, room_id: str, room_version: Any, **kwargs: Any
    ) -> Any:
        """Asks Synapse only where there is a redaction.

        On a SQLite database that was never analysed, Synapse's query goes through all
        events of the room, for each batch.
        """
        events = kwargs.get("events_and_contexts")
        if events and self._arriving and all(e.event_id in self._arriving for e, _ in events):
            clause, args = make_in_list_sql_clause(
                txn.database_engine, "redacts", [event.event_id for event, _ in events]
            )
            txn.execute(f"SELECT 1 FROM redactions WHERE {clause} LIMIT 1", args)
            if txn.fetchone() is None:
                return events
        return self._redact_txn(txn, room_id, room_version, **kwargs)
