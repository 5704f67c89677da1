"""What two processes write at the same moment: the other one's row is no error of the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg2
import pytest

from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.repair import RepairProgress, RepairRequest
from synapse_rejection_repair.domain.scope import Scope
from tests.harness.client import MatrixError
from tests.harness.database import PostgresDatabase
from tests.harness.federation import Pair, Room, running
from tests.harness.losing import lose_message
from tests.harness.postgres import Postgres
from tests.harness.repairing import start
from tests.harness.server import Server
from tests.harness.waiting import wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
SEEN, JOBS = "rejection_repair_seen", "rejection_repair_jobs"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("beside")
    a = Server(folder / "a", modules=[])
    b = Server(folder / "b", database=postgres.create_database())
    with running(a, b):
        yield Pair(a, b).room("11")


@contextmanager
def another_process_writes(
    database: PostgresDatabase, table: str, row: dict[str, object]
) -> Iterator[None]:
    """Writes a row when the server, with its snapshot taken, is about to write the same."""
    waiting = f"SELECT 1 FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass"
    connection = psycopg2.connect(**database.arguments)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            yield
            wait_for(lambda: database.query(waiting), what="the server to be about to write")
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('%s' for _ in row)})",
                tuple(row.values()),
            )
    finally:
        connection.close()


def test_what_fails_is_seen(room: Room, postgres: Postgres) -> None:
    before = postgres.log_size
    with pytest.raises(psycopg2.Error):
        room.b.database.query("SELECT 1,\n\tno_column FROM events")
    ((error, statement),) = postgres.failed(before)
    assert "no_column" in error
    assert statement == "SELECT 1,\n\t\tno_column FROM events"


def test_a_rejection_that_two_processes_notice(room: Room, postgres: Postgres) -> None:
    database, before = room.b.database, postgres.log_size
    assert isinstance(database, PostgresDatabase)
    row: dict[str, object] = {"room_id": room.room_id, "error": "Theirs", "ts": 1, "roots": "[]"}
    with another_process_writes(database, SEEN, row):
        row["event_id"] = lose_message(room, "Lost")
    last = lose_message(room, "Lost as well")
    noticed = f"SELECT error FROM {SEEN} WHERE event_id = ?"
    wait_for(lambda: database.query(noticed, last), what="the next rejection to be recorded")
    assert database.value(noticed, row["event_id"]) == "Theirs"
    assert postgres.failed(before) == []


def test_a_repair_that_two_processes_are_asked_for(room: Room, postgres: Postgres) -> None:
    database, before = room.b.database, postgres.log_size
    assert isinstance(database, PostgresDatabase)
    theirs: dict[str, object] = {
        "job_id": "theirs",
        "kind": "repair",
        "room_id": room.room_id,
        "status": "scheduled",
        "request": json.dumps(RepairRequest(Scope(), Deliver.LIVE).to_json()),
        "progress": json.dumps(RepairProgress().to_json()),
        "created_ts": 1,
        "cancel_requested": 0,
    }
    with ThreadPoolExecutor(1) as pool:
        with another_process_writes(database, JOBS, theirs):
            ours = pool.submit(start, room.bob, room.room_id)
        with pytest.raises(MatrixError, match="theirs") as refused:
            ours.result()
    assert refused.value.status == 409
    assert postgres.failed(before) == []
