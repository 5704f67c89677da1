"""Taking a stored event's own rows away, journalled, so that Synapse can store it anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attr
from synapse.api.constants import EventTypes
from synapse.storage.database import LoggingTransaction, make_in_list_sql_clause
from synapse.storage.engines import PostgresEngine

from synapse_rejection_repair.adapter.journal import journal

OWN_ROWS = (
    "rejections",
    "event_edges",
    "event_auth",
    "state_events",
    "room_memberships",
    "event_relations",
    "redactions",
    "event_labels",
    "event_expiry",
    "room_retention",
    "sticky_events",
    "event_json",
    "events",
)
"""The tables whose rows of an event `PersistEventsStore._persist_events_txn` writes anew.

Not among them: `event_to_state_groups`, which it replaces by itself; and
`event_auth_chains` with its links, which follow from the auth events alone, stay true and
are pointed to by other events' (read in Synapse 1.151.0 and 1.163.2).
"""

STATE = "event_to_state_groups"
"""The table that has the state at each event."""

_SEARCH = "event_search"
_SNAPSHOTS = "sliding_sync_membership_snapshots"
_HANGING = ("thread_subscriptions", "event_txn_id_device_id")
"""Tables whose rows go with the events that they name, by their foreign keys."""
_OF_USERS = ("forgotten", "participant")
"""What `room_memberships` has of its events that did not come with them."""
_ORDERED = ("current_state_events", "local_current_membership")


@attr.s(slots=True, auto_attribs=True)
class TakenAway:
    """What has to be put back once the events are stored anew, as other rows refer to them.

    Attributes:
        room_id: the room.
        extremities: the events that were forward extremities.
        snapshots: the columns and rows of sliding sync's memberships that named the events.
        hanging: the rows that go with the events, by table.
        memberships: what the events' memberships had that does not come with them.
        members: those of the events that are of members.
        loosened: the tables whose rows pointed to the events' stream orderings.
        tip_parked: the newest position of the room, as sliding sync has it, was an event's.
    """

    room_id: str
    extremities: list[str]
    snapshots: list[dict[str, Any]]
    hanging: dict[str, list[dict[str, Any]]]
    memberships: list[tuple[Any, ...]]
    members: list[str]
    loosened: list[str]
    tip_parked: bool


def take_away(
    txn: LoggingTransaction,
    room_id: str,
    event_ids: Collection[str],
    damaged: Collection[str],
    job_id: str,
    action: str,
    now_ms: int,
) -> TakenAway:
    """Journals and deletes the rows of events that are about to be stored anew.

    Args:
        txn: the transaction that stores them anew.
        room_id: their room.
        event_ids: the events.
        damaged: those of them that are marked accepted, and so may have search rows.
        job_id: the job that does it.
        action: what the job does with them.
        now_ms: the time, in milliseconds.
    """
    originals: dict[str, dict[str, list[dict[str, Any]]]] = {i: {} for i in event_ids}
    filled = []
    for table in (STATE, *OWN_ROWS):
        rows = _select(txn, table, "event_id", event_ids)
        for row in rows:
            originals[row["event_id"]].setdefault(table, []).append(row)
        if rows and table in OWN_ROWS:
            filled.append(table)
    journal(txn, job_id, action, now_ms, originals.items())

    # Without rows where one has been purged since it was planned.
    positions = [r["stream_ordering"] for was in originals.values() for r in was.get("events", ())]
    memberships = [
        (*(row[column] for column in _OF_USERS), row["event_id"])
        for was in originals.values()
        for row in was.get("room_memberships", ())
        if any(row[column] for column in _OF_USERS)
    ]
    members = [
        event_id
        for event_id, was in originals.items()
        if any(row["type"] == EventTypes.Member for row in was.get("state_events", ()))
    ]
    taken = _park(txn, room_id, event_ids, positions, memberships, members)
    # SQLite's search table has no index on event ids: not asked where nothing can be found.
    searched = event_ids if isinstance(txn.database_engine, PostgresEngine) else damaged
    if searched:
        delete(txn, _SEARCH, searched)
    for table in filled:
        delete(txn, table, event_ids)
    return taken


def put_back(txn: LoggingTransaction, taken: TakenAway) -> list[str]:
    """Restores what referred to the events, now that they are stored anew.

    Args:
        txn: the transaction that took them away.
        taken: what `take_away` gave.

    Returns:
        The users of whose membership the current state knows only now.
    """
    for table in taken.loosened:
        txn.execute(
            f"UPDATE {table} SET event_stream_ordering ="
            f" (SELECT stream_ordering FROM events WHERE events.event_id = {table}.event_id)"
            " WHERE room_id = ? AND event_stream_ordering IS NULL",
            (taken.room_id,),
        )
    if taken.tip_parked:
        txn.execute(
            "UPDATE sliding_sync_joined_rooms SET event_stream_ordering ="
            " (SELECT MAX(stream_ordering) FROM events"
            "  WHERE room_id = ? AND stream_ordering > 0 AND NOT outlier)"
            " WHERE room_id = ?",
            (taken.room_id, taken.room_id),
        )
    if taken.extremities:
        restore_extremities(txn, taken.extremities)
    _restore_snapshots(txn, taken.snapshots)
    for table, rows in taken.hanging.items():
        for row in rows:
            insert(txn, table, row, " ON CONFLICT DO NOTHING")
    if taken.memberships:
        columns = ", ".join(f"{column} = ?" for column in _OF_USERS)
        txn.execute_batch(
            f"UPDATE room_memberships SET {columns} WHERE event_id = ?", taken.memberships
        )
    return _note_memberships(txn, taken.members) if taken.members else []


def _note_memberships(txn: LoggingTransaction, event_ids: Collection[str]) -> list[str]:
    """Notes memberships in the current state that it has had without them.

    Synapse does so where an entry changes, by what `room_memberships` has at that moment
    (`PersistEventsStore._update_current_state_txn`, read in Synapse 1.151.0 and 1.163.2), and
    that was nothing yet if the state came from another server.
    """
    clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", event_ids)
    txn.execute(
        f"SELECT state_key FROM current_state_events WHERE membership IS NULL AND {clause}", args
    )
    users = [user_id for (user_id,) in txn]
    if users:
        txn.execute(
            "UPDATE current_state_events SET membership ="
            " (SELECT m.membership FROM room_memberships AS m"
            "  WHERE m.event_id = current_state_events.event_id)"
            f" WHERE membership IS NULL AND {clause}",
            args,
        )
    return users


def _park(
    txn: LoggingTransaction,
    room_id: str,
    event_ids: Collection[str],
    positions: Sequence[int],
    memberships: list[tuple[Any, ...]],
    members: list[str],
) -> TakenAway:
    """Loosens what refers to the events by a foreign key, so that their rows can go."""
    extremities = [
        row["event_id"] for row in _select(txn, "event_forward_extremities", "event_id", event_ids)
    ]
    if extremities:
        delete(txn, "event_forward_extremities", extremities)
    loosened = []
    for table in _ORDERED:
        clause, args = make_in_list_sql_clause(
            txn.database_engine, "event_stream_ordering", positions
        )
        txn.execute(
            f"UPDATE {table} SET event_stream_ordering = NULL WHERE room_id = ? AND {clause}",
            (room_id, *args),
        )
        if txn.rowcount:
            loosened.append(table)

    snapshots = _select(txn, _SNAPSHOTS, "membership_event_id", event_ids)
    if snapshots:
        clause, args = make_in_list_sql_clause(
            txn.database_engine, "membership_event_id", event_ids
        )
        txn.execute(f"DELETE FROM {_SNAPSHOTS} WHERE {clause}", args)

    clause, args = make_in_list_sql_clause(txn.database_engine, "event_stream_ordering", positions)
    others, other_args = make_in_list_sql_clause(
        txn.database_engine, "stream_ordering", positions, negative=True
    )
    txn.execute(
        "UPDATE sliding_sync_joined_rooms SET event_stream_ordering ="
        f" (SELECT MAX(stream_ordering) FROM events WHERE room_id = ? AND {others})"
        f" WHERE room_id = ? AND {clause}",
        (room_id, *other_args, room_id, *args),
    )
    tip_parked = txn.rowcount > 0
    hanging = {table: _select(txn, table, "event_id", event_ids) for table in _HANGING}
    return TakenAway(
        room_id, extremities, snapshots, hanging, memberships, members, loosened, tip_parked
    )


def restore_extremities(txn: LoggingTransaction, event_ids: Collection[str]) -> None:
    """Makes those events forward extremities again that nothing follows.

    A rejected one too, until the repair ends: a room must never have none.
    """
    clause, args = make_in_list_sql_clause(txn.database_engine, "e.event_id", event_ids)
    txn.execute(
        "INSERT INTO event_forward_extremities (event_id, room_id)"
        " SELECT e.event_id, e.room_id FROM events AS e"
        f" WHERE {clause}"
        " AND NOT EXISTS (SELECT 1 FROM event_forward_extremities AS f"
        "  WHERE f.event_id = e.event_id)"
        " AND NOT EXISTS (SELECT 1 FROM event_edges AS n WHERE n.prev_event_id = e.event_id)",
        args,
    )


def _restore_snapshots(txn: LoggingTransaction, snapshots: Iterable[dict[str, Any]]) -> None:
    for row in snapshots:
        txn.execute(
            "SELECT stream_ordering FROM events WHERE event_id = ?", (row["membership_event_id"],)
        )
        position = txn.fetchone()
        if position is None:
            continue
        values = {**row, "event_stream_ordering": position[0]}
        insert(txn, _SNAPSHOTS, values, " ON CONFLICT DO NOTHING")


def _select(
    txn: LoggingTransaction, table: str, column: str, ids: Collection[str]
) -> list[dict[str, Any]]:
    clause, args = make_in_list_sql_clause(txn.database_engine, column, ids)
    txn.execute(f"SELECT * FROM {table} WHERE {clause}", args)
    names = [description[0] for description in txn.description or ()]
    return [dict(zip(names, row, strict=True)) for row in txn]


def delete(txn: LoggingTransaction, table: str, event_ids: Collection[str]) -> None:
    """Deletes the rows of some events from a table, in one statement."""
    clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", event_ids)
    txn.execute(f"DELETE FROM {table} WHERE {clause}", args)


def insert(
    txn: LoggingTransaction, table: str, row: Mapping[str, object], otherwise: str = ""
) -> None:
    """Writes one row.

    Args:
        txn: the transaction.
        table: the table.
        row: its values, by column.
        otherwise: the SQL that says what to do where there is such a row.
    """
    marks = ", ".join("?" for _ in row)
    columns = ", ".join(row)
    txn.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks}){otherwise}", [*row.values()])
