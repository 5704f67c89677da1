"""All that a server's tables say of a room, but for where in its streams and when it said so."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.harness import compare
from tests.harness.server import Server

_WHERE_AND_WHEN = frozenset(
    {
        "bump_stamp",
        "event_stream_ordering",
        "instance_name",
        "last_check",
        "min_depth",
        "received_ts",
        "stream_id",
        "stream_ordering",
        "ts",
    }
)
"""Columns of positions in streams, of times, and of who wrote them."""

_LEFT_OUT = {
    "current_state_delta_stream": "a stream",
    "event_auth_chain_links": "numbers of chains: compared by what they reach",
    "event_auth_chains": "numbers of chains: compared by what they reach",
    "event_to_state_groups": "numbers of groups: compared by the states",
    "ex_outlier_stream": "a stream",
    "federation_stream_position": "a stream",
    "rejection_repair_alerts": "what the watch notes in its own time",
    "rejection_repair_jobs": "the job itself",
    "rejection_repair_journal": "the job itself",
    "rejection_repair_seen": "what the watch notes in its own time",
    "rejection_repair_states": "the states that plans borrow",
    "room_stats_current": "a position in a stream",
    "sliding_sync_joined_rooms_to_recalculate": "Synapse's background updates",
    "state_groups": "numbers of groups: compared by the states",
    "state_groups_state": "numbers of groups: compared by the states",
    "stream_ordering_to_exterm": "a stream",
}


def contents(server: Server, room_id: str) -> dict[str, Any]:
    """Every table that has rows of the room, with how often it has each."""
    query = server.database.query
    tables = [
        name
        for (name,) in query("SELECT name FROM sqlite_master WHERE type = 'table'")
        if name not in _LEFT_OUT and not name.startswith(("sqlite_", "event_search_", "_temp_"))
    ]
    ids = {i for (i,) in query("SELECT event_id FROM events WHERE room_id = ?", room_id)}
    found: dict[str, Any] = {}
    for table in tables:
        columns = [c for _, c, *_ in query(f"SELECT * FROM pragma_table_info('{table}')")]
        wanted = [c for c in columns if c not in _WHERE_AND_WHEN]
        if "room_id" in columns:
            rows = query(f"SELECT {', '.join(wanted)} FROM {table} WHERE room_id = ?", room_id)
        elif "event_id" in columns:
            place = wanted.index("event_id")
            rows = [
                row
                for row in query(f"SELECT {', '.join(wanted)} FROM {table}")
                if row[place] in ids
            ]
        else:
            continue
        found[table] = Counter(rows)
    found["states"] = compare.states_after(server, room_id)
    found["auth chains"] = compare.auth_chains(server, room_id)
    found["inconsistencies"] = compare.inconsistencies(server, room_id)
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, str]:
    """What differs between two such contents, by table."""
    return {
        table: compare.describe(expected[table], found[table])
        for table in expected
        if expected[table] != found[table]
    }
