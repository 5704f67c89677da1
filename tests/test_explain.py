"""No statement of ours reads a large table whole: PostgreSQL's own word for each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import quoted
from tests.harness.damage import make_damage
from tests.harness.federation import Pair, running
from tests.harness.losing import everywhere
from tests.harness.postgres import Postgres
from tests.harness.repairing import diagnosis, dry_run, finished, health, repair
from tests.harness.server import Server
from tests.oldworld import begin, come_late, live, sources

FILLING = 200_000

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


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
    ):
        server.database.execute(sql, FILLING)
    for table in ("events", "event_json", "event_edges", "event_auth", "event_to_state_groups"):
        server.database.execute(f"ANALYZE {table}")


@pytest.fixture
def reported(tmp_path: Path, postgres: Postgres) -> Iterator[list[dict[str, Any]]]:
    """What is reported of all that the module can do."""
    report = tmp_path / "report.jsonl"
    a = Server(tmp_path / "a", modules=[])
    b = Server(
        tmp_path / "b",
        database=postgres.create_database(),
        modules=[
            {"module": "tests.harness.explain.Explain", "config": {"report": str(report)}},
            *sources(old=a.database.synapse_config()),
        ],
    )
    with running(a, b):
        room = Pair(a, b).room("11")
        make_damage(room, 20)
        unindexed = room.bob.send_message(room.room_id, "Not to be found")
        everywhere(room, unindexed)
        b.stop()
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
        come_late(old)
        old.dry_run()
        assert old.import_room(verify_signatures=True)["status"] == "complete"
        old.bob.repair_api("GET", "/sources/old/rooms")
    yield [json.loads(line) for line in report.read_text().splitlines()]


def test_no_large_table_is_read_whole(reported: list[dict[str, Any]]) -> None:
    whole = [row for row in reported if "table" in row]
    assert whole == [], "\n\n".join(f"{r['table']} {r['how']}: {r['statement']}" for r in whole)
    statements = {row["statement"] for row in reported}
    assert len(statements) > 50, "nothing was looked at"
