"""No statement of ours reads a large table whole: the database's own word for each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import quoted
from tests.harness.damage import make_damage
from tests.harness.database import Database
from tests.harness.explain import LARGE
from tests.harness.federation import Pair, running
from tests.harness.losing import everywhere
from tests.harness.repairing import diagnosis, dry_run, finished, health, repair
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import MODULE, begin, come_late, live

FILLING = 200_000

WHOLE = {
    "SELECT e.room_id, COUNT(*) FROM events AS e LEFT JOIN rejections": "all events are counted",
    "SELECT redactions.event_id, redactions.redacts,": "Synapse's own, as it stores events",
}
"""The beginnings of statements that are as they have to be, and why."""

pytestmark = pytest.mark.slow


def grow(server: Server) -> None:
    """Makes a server's tables so large that PostgreSQL reads them by their indexes."""
    events = "generate_series(1, ?) AS n"
    for sql in (
        "INSERT INTO events (instance_name, stream_ordering, topological_ordering, depth, event_id,"
        " room_id, type, processed, outlier, origin_server_ts, received_ts, sender, contains_url)"
        " SELECT 'master', -1000000 - n, n, n, '$filler' || n, '!filler' || n % 500,"
        " 'm.room.message', true, false, n, n, '@filler:example.org', false FROM " + events,
        "INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)"
        " SELECT '$filler' || n, '!filler' || n % 500, '{}', '{}', 3 FROM " + events,
        "INSERT INTO event_edges (event_id, prev_event_id, is_state)"
        " SELECT '$filler' || n, '$filler' || n - 1, false FROM " + events,
        "INSERT INTO event_auth (event_id, auth_id, room_id)"
        " SELECT '$filler' || n, '$filler' || n - n % 100, '!filler' || n % 500 FROM " + events,
        "INSERT INTO event_to_state_groups (event_id, state_group)"
        " SELECT '$filler' || n, 1000000 + n / 100 FROM " + events,
        "INSERT INTO remote_media_cache (media_origin, media_id, media_type, created_ts,"
        " upload_name, media_length, filesystem_id)"
        " SELECT 'filler' || n % 500, 'filler' || n, 'image/png', n, 'f', n, 'f' || n FROM "
        + events,
    ):
        server.database.execute(sql, FILLING)
    for table in LARGE:
        server.database.execute(f"ANALYZE {table}")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def reported(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """What is reported of all that the module can do."""
    report = tmp_path / "report.jsonl"
    a = Server(tmp_path / "a", modules=[])
    database: Database | None = None
    if request.param == "postgres":
        database = request.getfixturevalue("postgres").create_database()
    source = {
        "database": a.database.synapse_config(),
        "media_store_path": str(a.folder / "media_store"),
    }
    b = Server(
        tmp_path / "b",
        database=database,
        modules=[
            {"module": "tests.harness.explain.Explain", "config": {"report": str(report)}},
            {"module": MODULE, "config": {"sources": {"old": source}}},
        ],
        # Some indexes come in the background.
        config={"background_updates": {"sleep_enabled": False}},
    )
    with running(a, b):
        room = Pair(a, b).room("11")
        make_damage(room, 20)
        unindexed = room.bob.send_message(room.room_id, "Not to be found")
        everywhere(room, unindexed)
        wait_for(
            lambda: not b.database.query("SELECT update_name FROM background_updates"),
            timeout=60,
            what="all of B's indexes",
        )
        b.stop()
        if database is not None:
            grow(b)
        report.unlink(missing_ok=True)
        b.database.execute("DELETE FROM event_search WHERE event_id = ?", unindexed)
        b.start()
        api, r = room.bob.repair_api, quoted(room.room_id)
        for query in ({}, {"order_by": "rejected_events", "dir": "b"}):
            api("GET", "/rooms", params=query)
        for query in ({}, {"since_ts": "1", "type": "m.room.message", "order_by": "depth"}):
            api("GET", f"/rooms{r}/rejections", params=query)
        diagnosis(room.bob, room.room_id)
        health(room.bob, room.room_id)
        dry_run(room.bob, room.room_id)
        repaired = repair(room.bob, room.room_id)["repair_id"]
        api("GET", "/repairs", params={"room_id": room.room_id})
        undo = api("POST", "/repairs" + quoted(repaired, "undo"), {"dry_run": False})
        assert finished(room.bob, undo["repair_id"])["status"] == "complete"
        repair(room.bob, room.room_id, deliver="history")
        old = begin(a, b, "11")
        live(old, 12)
        for number in range(3):
            uri = old.alice.upload(b"Old words", "text/plain", f"{number}.txt")
            old.alice.send_event(
                old.room_id, "m.room.message", {"msgtype": "m.file", "body": "", "url": uri}
            )
        come_late(old)
        old.dry_run(verify_signatures=True)
        job = old.import_room(verify_signatures=True, media=True)
        assert (job["status"], job["media"]["copied"]) == ("complete", 3), job
        old.bob.repair_api("GET", "/sources/old/rooms")
    yield [json.loads(line) for line in report.read_text().splitlines()]


def test_no_large_table_is_read_whole(reported: list[dict[str, Any]]) -> None:
    whole = [
        row
        for row in reported
        if "table" in row and not row["statement"].strip().startswith(tuple(WHOLE))
    ]
    assert whole == [], "\n\n".join(f"{r['table']} {r['how']}: {r['statement']}" for r in whole)
    statements = {row["statement"] for row in reported}
    assert len(statements) > 50, "nothing was looked at"
    # Executed for many rows at once.
    assert any(s.startswith("UPDATE event_to_state_groups") for s in statements)
