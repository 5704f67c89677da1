"""A server whose tables an earlier version of the module made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.postgres import Postgres
from tests.harness.server import Server

ALERTS = "rejection_repair_alerts"


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_column_that_is_missing_is_added(
    request: pytest.FixtureRequest, make_server: Callable[..., Server], kind: str
) -> None:
    database = None
    if kind == "postgres":
        cluster: Postgres = request.getfixturevalue("postgres")
        database = cluster.create_database()
    server = make_server(database=database)
    server.start()
    admin = server.register("admin", admin=True)
    assert admin.repair_api("GET", "/alerts")["total"] == 0
    server.stop()
    server.database.execute(f"ALTER TABLE {ALERTS} DROP COLUMN repair_id")
    server.database.execute(
        f"INSERT INTO {ALERTS} (event_id, room_id, first_ts, alerted_ts, cascade)"
        " VALUES ('$event', '!room:a', 1, 2, 3)"
    )
    server.start()
    (alert,) = admin.repair_api("GET", "/alerts")["alerts"]
    assert (alert["event_id"], alert["repair_id"]) == ("$event", None)
    assert server.errors_in_log() == []
