"""What Synapse keeps of a room's newest events, once events are there no more, or arrive late."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from synapse.storage.database import LoggingTransaction, make_in_list_sql_clause
from synapse.types.handlers import SLIDING_SYNC_DEFAULT_BUMP_EVENT_TYPES


def mend_bump_stamp(txn: LoggingTransaction, room_id: str) -> None:
    """Lets sliding sync sort the room by the newest event that is still in it."""
    types = sorted(SLIDING_SYNC_DEFAULT_BUMP_EVENT_TYPES)
    txn.execute(
        "UPDATE sliding_sync_joined_rooms SET bump_stamp ="
        " (SELECT MAX(e.stream_ordering) FROM events AS e"
        "  LEFT JOIN rejections AS r ON r.event_id = e.event_id"
        "  WHERE e.room_id = ? AND e.stream_ordering > 0 AND NOT e.outlier"
        f"  AND r.event_id IS NULL AND e.type IN ({', '.join('?' for _ in types)}))"
        " WHERE room_id = ? AND bump_stamp IS NOT NULL",
        (room_id, *types, room_id),
    )


def mend_threads(txn: LoggingTransaction, room_id: str, event_ids: Sequence[str]) -> None:
    """Lets threads that end with some events end with the newest event that is still in them."""
    clause, args = make_in_list_sql_clause(txn.database_engine, "latest_event_id", event_ids)
    txn.execute(f"SELECT thread_id FROM threads WHERE room_id = ? AND {clause}", (room_id, *args))
    for (thread_id,) in txn.fetchall():
        mend_thread(txn, room_id, thread_id)


def mend_thread(txn: LoggingTransaction, room_id: str, thread_id: str) -> None:
    """Lets a thread end with the newest event that is in it; without any, there is none."""
    txn.execute(
        "SELECT e.event_id, e.topological_ordering, e.stream_ordering"
        " FROM event_relations AS er INNER JOIN events AS e ON e.event_id = er.event_id"
        " WHERE er.relates_to_id = ? AND er.relation_type = 'm.thread'"
        " ORDER BY e.topological_ordering DESC, e.stream_ordering DESC LIMIT 1",
        (thread_id,),
    )
    latest = txn.fetchone()
    if latest is None:
        txn.execute("DELETE FROM threads WHERE room_id = ? AND thread_id = ?", (room_id, thread_id))
        return
    txn.execute(
        "INSERT INTO threads"
        " (latest_event_id, topological_ordering, stream_ordering, room_id, thread_id)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT (room_id, thread_id) DO UPDATE SET"
        " latest_event_id = excluded.latest_event_id,"
        " topological_ordering = excluded.topological_ordering,"
        " stream_ordering = excluded.stream_ordering",
        (*latest, room_id, thread_id),
    )


def extend_threads(txn: LoggingTransaction, room_id: str, event_ids: Collection[str]) -> None:
    """Lets threads end with replies that arrived late, where these are the newest.

    The upsert in `PersistEventsStore._handle_event_relations` (read in Synapse 1.151.0 and 1.163.2)
    wants a later stream ordering as well as a greater depth. What arrives late has a negative one,
    so where a thread's older reply was received live, it would stay the latest.

    Args:
        txn: the transaction that stores them.
        room_id: the room.
        event_ids: the events that arrived, replies or not.
    """
    clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", event_ids)
    txn.execute(
        "SELECT event_id, relates_to_id FROM event_relations"
        f" WHERE relation_type = 'm.thread' AND {clause}",
        args,
    )
    threads = dict(txn.fetchall())
    if not threads:
        return
    # Not joined: PostgreSQL, where it was never analysed, takes long for that.
    clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", threads)
    txn.execute(
        "SELECT event_id, topological_ordering, stream_ordering FROM events"
        f" WHERE {clause} ORDER BY topological_ordering, stream_ordering",
        args,
    )
    # Not by all of a thread's replies, which may be most of the room.
    txn.execute_batch(
        "UPDATE threads SET latest_event_id = ?, topological_ordering = ?, stream_ordering = ?"
        " WHERE room_id = ? AND thread_id = ? AND (latest_event_id = ?"
        " OR (topological_ordering, stream_ordering) < (?, ?))",
        [
            (event_id, *order, room_id, threads[event_id], event_id, *order)
            for event_id, *order in txn.fetchall()
        ],
    )
