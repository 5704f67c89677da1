"""Rejected and soft-failed events as Synapse stores them, written straight into a database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from canonicaljson import encode_canonical_json

from tests.harness.database import Database, PostgresDatabase
from tests.harness.federation import Room
from tests.harness.hostile import JsonDict

Inserts = dict[str, list[tuple[Any, ...]]]
"""Rows by the table and columns that they go into."""


def store_rejected(room: Room, events: list[tuple[JsonDict, str]]) -> None:
    """Writes events into B's database as Synapse writes those that it rejects.

    Args:
        room: The room; B is stopped.
        events: The events with their ids, each following the one before.
    """
    _store(
        room,
        events,
        {"rejections (event_id, reason, last_check)": [(i, "auth_error", "0") for _, i in events]},
        rejected="auth_error",
        metadata="{}",
    )


def store_soft_failed(room: Room, events: list[tuple[JsonDict, str]]) -> None:
    """Writes messages into B's database as Synapse writes those that it soft-fails.

    Args:
        room: The room; B is stopped.
        events: The events with their ids, each following the one before.
    """
    edges = [(i, prev, False) for e, i in events for prev in e["prev_events"]]
    _store(
        room,
        events,
        {"event_edges (event_id, prev_event_id, is_state)": edges},
        rejected=None,
        metadata='{"soft_failed":true}',
    )


def _store(
    room: Room,
    events: list[tuple[JsonDict, str]],
    more: Inserts,
    *,
    rejected: str | None,
    metadata: str,
) -> None:
    database = room.b.database
    position = database.value("SELECT MAX(stream_ordering) FROM events")
    root = events[0][0]["prev_events"][0]
    group = database.value("SELECT state_group FROM event_to_state_groups WHERE event_id = ?", root)
    inserts: Inserts = {
        "event_json (event_id, room_id, internal_metadata, json, format_version)": [
            (i, room.room_id, metadata, encode_canonical_json(e).decode(), 3) for e, i in events
        ],
        "events (event_id, room_id, type, state_key, sender, depth, topological_ordering,"
        " stream_ordering, origin_server_ts, received_ts, processed, outlier, instance_name,"
        " rejection_reason)": [
            (
                i,
                room.room_id,
                e["type"],
                e.get("state_key"),
                e["sender"],
                e["depth"],
                e["depth"],
                position + number + 1,
                e["origin_server_ts"],
                e["origin_server_ts"],
                True,
                False,
                "master",
                rejected,
            )
            for number, (e, i) in enumerate(events)
        ],
        "event_to_state_groups (event_id, state_group)": [(i, group) for _, i in events],
        "state_events (event_id, room_id, type, state_key)": [
            (i, room.room_id, e["type"], e["state_key"]) for e, i in events if "state_key" in e
        ],
        "event_auth (event_id, auth_id, room_id)": [
            (i, auth_id, room.room_id) for e, i in events for auth_id in e["auth_events"]
        ],
    }
    inserts |= {**more, **chains(database, events)}
    for into, rows in ((into, rows) for into, rows in inserts.items() if rows):
        marks = ",".join("?" for _ in rows[0])
        database.execute_many(f"INSERT INTO {into} VALUES ({marks})", rows)
    if isinstance(database, PostgresDatabase):
        for sequence, table, column in (
            ("events_stream_seq", "events", "stream_ordering"),
            ("event_auth_chain_id", "event_auth_chains", "chain_id"),
        ):
            database.execute(f"SELECT setval('{sequence}', (SELECT MAX({column}) FROM {table}))")


def chains(database: Database, events: Sequence[tuple[JsonDict, str]]) -> Inserts:
    """The rows of the index of auth chains: a chain of its own for each state event.

    Args:
        database: the database; what the events cite is there and has its chains.
        events: the events with their ids.
    """
    last = database.value("SELECT MAX(chain_id) FROM event_auth_chains")
    state = [(i, e["auth_events"]) for e, i in events if "state_key" in e]
    places = {
        auth_id: database.query(
            "SELECT chain_id, sequence_number FROM event_auth_chains WHERE event_id = ?", auth_id
        )
        for auth_id in {auth_id for _, auth_ids in state for auth_id in auth_ids}
    }
    return {
        "event_auth_chains (event_id, chain_id, sequence_number)": [
            (i, last + number, 1) for number, (i, _) in enumerate(state, 1)
        ],
        "event_auth_chain_links (origin_chain_id, origin_sequence_number,"
        " target_chain_id, target_sequence_number)": [
            (last + number, 1, *place)
            for number, (_, auth_ids) in enumerate(state, 1)
            for auth_id in auth_ids
            for place in places[auth_id]
        ],
    }
