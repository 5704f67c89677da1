"""After an import, every table says of the room what it says on a server that was always in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.harness import tables
from tests.harness.server import Server
from tests.oldworld import OldWorld, accepted, old_world

OF_OWN_USERS = {
    "destination_rooms": "what each server has sent to others",
    "event_push_actions": "unread counts of each server's own users: history is no news to them",
    "local_current_membership": "each server's own users",
    "sliding_sync_membership_snapshots": "each server's own users",
    "un_partial_stated_event_stream": "each server's own join, for its workers",
}
"""Tables that no two servers have in common, and why."""

MIN_DEPTH = "SELECT min_depth FROM room_depth WHERE room_id = ?"


def in_common(server: Server, room_id: str, own: set[str]) -> dict[str, Any]:
    """All tables but those of own users; how a server noted its own join is left out too."""
    found = tables.contents(server, room_id)
    found["event_json"] = Counter(
        {row: n for row, n in found["event_json"].items() if own.isdisjoint(row)}
    )
    return {name: rows for name, rows in found.items() if name not in OF_OWN_USERS}


def test_equal_rows_in_every_table(tmp_path: Path) -> None:
    def scroll_back(world: OldWorld) -> None:
        # C, too, came some events after the first: it has them by backfill.
        assert world.carol.messages(world.room_id)[-1]["type"] == "m.room.create"

    with old_world(tmp_path, "11", messages=24, spoil=scroll_back) as world:
        b, c, room_id = world.b, world.c, world.room_id
        theirs = accepted(world.a, room_id)
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {})
        assert accepted(b, room_id) == theirs == accepted(c, room_id)
        own = {
            world.bob.state(room_id)["m.room.member", user.user_id]["event_id"]
            for user in (world.bob, world.carol)
        }
        right, found = in_common(c, room_id, own), in_common(b, room_id, own)
        assert right.keys() == found.keys()
        assert tables.differences(right, found) == {}
        assert b.database.value(MIN_DEPTH, room_id) == c.database.value(MIN_DEPTH, room_id)
        assert b.errors_in_log() == []
