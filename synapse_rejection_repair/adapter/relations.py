"""The relations of events that were redacted and are so no more."""

from __future__ import annotations

from collections.abc import Collection

from synapse.api.constants import RelationTypes
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_dict, relation_from_event
from synapse.storage._base import db_to_json
from synapse.storage.database import LoggingTransaction, make_in_list_sql_clause

from synapse_rejection_repair.adapter.newest import mend_thread


def redacted_by(txn: LoggingTransaction, event_ids: Collection[str]) -> set[str]:
    """The events that some accepted redactions name."""
    clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", event_ids)
    txn.execute(f"SELECT redacts FROM redactions WHERE {clause}", args)
    return {redacts for (redacts,) in txn.fetchall()}


def restore_relations(txn: LoggingTransaction, room_id: str, event_ids: Collection[str]) -> None:
    """Gives events back the relations that Synapse took away when it redacted them.

    That is all that `PersistEventsStore._handle_redact_relations` deletes; what is known of
    it is in the events alone (read in Synapse 1.151.0 and 1.163.2). Caches are left to the
    caller.

    Args:
        txn: the transaction that has taken redactions of theirs away.
        room_id: their room.
        event_ids: the events. Those that another redaction names, and those that are not
            accepted, stay as they are.
    """
    clause, args = make_in_list_sql_clause(txn.database_engine, "e.event_id", event_ids)
    txn.execute(
        "SELECT e.event_id, ej.json, rooms.room_version FROM events AS e"
        " INNER JOIN event_json AS ej ON ej.event_id = e.event_id"
        " INNER JOIN rooms ON rooms.room_id = e.room_id"
        " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
        f" WHERE e.room_id = ? AND NOT e.outlier AND r.event_id IS NULL AND {clause}"
        " AND NOT EXISTS (SELECT 1 FROM redactions AS other WHERE other.redacts = e.event_id)",
        (room_id, *args),
    )
    for event_id, json, version in txn.fetchall():
        event = make_event_from_dict(db_to_json(json), KNOWN_ROOM_VERSIONS[version])
        relation = relation_from_event(event)
        if relation is None:
            continue
        txn.execute(
            "INSERT INTO event_relations"
            " (event_id, relates_to_id, relation_type, aggregation_key)"
            " VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (event_id, relation.parent_id, relation.rel_type, relation.aggregation_key),
        )
        if relation.rel_type == RelationTypes.THREAD:
            mend_thread(txn, room_id, relation.parent_id)
