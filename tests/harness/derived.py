"""What Synapse derives from rooms' states in the background: statistics, and the user directory."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.harness.federation import Room
from tests.harness.waiting import wait_for

_OF_ROOMS = {
    "statistics": "SELECT current_state_events, joined_members, invited_members, left_members,"
    " banned_members, knocked_members, local_users_in_room FROM room_stats_current"
    " WHERE room_id = ?",
    "what is told of the room": "SELECT * FROM room_stats_state WHERE room_id = ?",
    "users in a public room": "SELECT user_id FROM users_in_public_rooms WHERE room_id = ?",
    "users who share a private room": "SELECT user_id, other_user_id"
    " FROM users_who_share_private_rooms WHERE room_id = ?",
}


def derived(room: Room) -> dict[str, Any]:
    """Reads that of B, once what works it out has seen all changes of the room's state."""
    b, r = room.b, room.room_id
    newest = b.database.value(
        "SELECT MAX(stream_id) FROM current_state_delta_stream WHERE room_id = ?", r
    )
    for table in ("stats_incremental_position", "user_directory_stream_pos"):
        position = f"SELECT COALESCE(MAX(stream_id), 0) >= ? FROM {table}"
        wait_for(partial(b.database.value, position, newest), what=f"{table} to follow")
    found = {name: {*b.database.query(sql, r)} for name, sql in _OF_ROOMS.items()}
    # Others come and go with other rooms.
    late = f"@late-{room.alice.user_id[1:]}"
    listed = b.database.query("SELECT user_id FROM user_directory WHERE user_id = ?", late)
    return {**found, "user directory": listed}
