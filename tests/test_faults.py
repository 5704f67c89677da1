"""Jobs whose database has no room left, or is locked by somebody else, wait and go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.harness import compare
from tests.harness.brake import brake
from tests.harness.braked import PERSIST, Braked, braked_pair
from tests.harness.damage import Damage, assert_whole, make_damage
from tests.harness.database import PostgresDatabase, SqliteDatabase
from tests.harness.disk import SmallDisk, small_disk
from tests.harness.federation import Room
from tests.harness.postgres import Postgres
from tests.harness.repairing import dry_run, finished, progress, start
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import accepted, job_path, old_world
from tests.oldworld import finished as import_finished
from tests.test_import import compare as compare_import
from tests.test_import import read_back

pytestmark = pytest.mark.slow

LENGTH = 100
FULL = "The database has no room left on its disk"
LOCKED = "Somebody else keeps the database locked"


class Impatient(SqliteDatabase):
    """A SQLite file for which a server waits for a short time only."""

    def synapse_config(self) -> dict[str, Any]:
        config = super().synapse_config()
        return {**config, "args": {**config["args"], "timeout": 0.2}}


def waits(server: Server, job_id: str, trouble: str) -> None:
    """Waits until a job says in the log that it waits, and why."""
    wait_for(
        lambda: any(
            job_id in line and f"waits: {trouble}" in line
            for line in server.log_text().splitlines()
        ),
        what=f"the job to wait because: {trouble}",
    )


def leave_no_room(disk: SmallDisk, database: SqliteDatabase) -> None:
    """Fills a disk, after SQLite gave back what its write-ahead log keeps for the next writes."""

    def truncated() -> bool:
        with database.connect(write=True) as connection:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    wait_for(truncated, what="the write-ahead log to be cut")
    disk.fill()


@contextmanager
def in_mid_repair(braked: Braked) -> Iterator[tuple[Room, Damage, str]]:
    """Begins a repair, gives it when half of it is held, and then sees it through."""
    room = braked.pair.room("10")
    damage = make_damage(room, LENGTH)
    braked.hold(2)
    repair_id = start(room.bob, room.room_id)
    damage.wait_until_half_done()
    yield room, damage, repair_id
    job = finished(room.bob, repair_id)
    assert (job["status"], job["error"], job["rejected"]) == ("complete", None, 0)
    assert job["accepted"] == len(damage.lost)
    assert_whole(room)
    assert dry_run(room.bob, room.room_id)["summary"]["accept"] == 0


def undecided(room: Room, damage: Damage) -> None:
    """Asserts that the repair is half done, and that nothing else is wrong with the room."""
    left = room.b.rejected(room.room_id)
    assert 0 < len(left) < len(damage.lost), "the repair was over already"
    assert compare.inconsistencies(room.b, room.room_id) == {}


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        database = SqliteDatabase(disk.folder / "homeserver.db")
        with (
            braked_pair(tmp_path / "servers", database) as braked,
            in_mid_repair(braked) as (room, damage, repair_id),
        ):
            leave_no_room(disk, database)
            braked.release()
            waits(room.b, repair_id, FULL)
            undecided(room, damage)
            assert progress(room.bob, repair_id)["status"] == "active"
            disk.empty()


@pytest.mark.postgres
def test_a_full_disk_of_postgres(tmp_path: Path) -> None:
    cluster = Postgres()
    try:
        with small_disk(cluster.folder / "tables", 64) as disk:
            database = cluster.start().create_database(disk.folder)
            with (
                braked_pair(tmp_path / "servers", database) as braked,
                in_mid_repair(braked) as (room, damage, repair_id),
            ):
                disk.fill()
                braked.release()
                waits(room.b, repair_id, FULL)
                undecided(room, damage)
                disk.empty()
            cluster.stop()
    finally:
        cluster.close()


def test_an_import_onto_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        database = SqliteDatabase(disk.folder / "homeserver.db")
        with old_world(tmp_path, "11", b_database=database) as world:
            theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
            import_id = world.start_import(events_per_second=10)
            wait_for(
                lambda: world.bob.repair_api("GET", job_path(import_id))["imported"],
                what="the import to get going",
            )
            leave_no_room(disk, database)
            waits(world.b, import_id, FULL)
            assert accepted(world.b, world.room_id) < theirs | before
            assert compare.inconsistencies(world.b, world.room_id) == {}
            disk.empty()
            job = import_finished(world.bob, import_id)
            assert (job["status"], job["error"], job["skipped"]) == ("complete", None, {})
            assert job["imported"] == len(theirs - before)
            compare_import(world, theirs, theirs - before)
            read_back(world)


def test_a_locked_file(tmp_path: Path) -> None:
    database = Impatient(tmp_path / "homeserver.db")
    with (
        braked_pair(tmp_path / "servers", database) as braked,
        in_mid_repair(braked) as (room, damage, repair_id),
    ):
        connection = sqlite3.connect(database.path, timeout=30, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        braked.release()
        waits(room.b, repair_id, LOCKED)
        undecided(room, damage)
        assert progress(room.bob, repair_id)["status"] == "active"
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.postgres
def test_a_locked_table(tmp_path: Path, postgres: Postgres) -> None:
    database = postgres.create_database()
    assert isinstance(database, PostgresDatabase)
    with (
        braked_pair(tmp_path / "servers", database) as braked,
        in_mid_repair(braked) as (room, damage, repair_id),
    ):
        connection = psycopg2.connect(**database.arguments)
        with connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLE event_edges IN SHARE MODE")
            braked.release()
            waiting = (
                "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'event_edges'::regclass"
            )
            wait_for(lambda: database.query(waiting), what="the repair to wait for the table")
            undecided(room, damage)
            assert progress(room.bob, repair_id)["status"] == "active"
        connection.close()


@pytest.mark.postgres
def test_killed_while_a_job_notes_that_it_waits(tmp_path: Path, postgres: Postgres) -> None:
    made = postgres.create_database()
    # The server gives up on what is locked, and goes on with everything else.
    database = PostgresDatabase({**made.arguments, "options": "-c lock_timeout=200ms"})
    with braked_pair(tmp_path / "servers", database) as braked:
        room = braked.pair.room("10")
        damage = make_damage(room, 20)
        connection = psycopg2.connect(**made.arguments)
        with connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLE event_edges IN SHARE MODE")
            repair_id = None
            for moment in ("before", "after"):
                brake(
                    braked.control,
                    {
                        "transaction": "rejection_repair_save_job",
                        "nth": 1,
                        "kill": moment,
                        "since": {"transaction": PERSIST, "nth": 1},
                    },
                )
                if repair_id is None:
                    repair_id = start(room.bob, room.room_id)
                else:
                    room.b.launch()
                braked.wait_dead()
                status, error = noted(database, repair_id)
                assert status == "active"
                assert (error or "").startswith(LOCKED) is (moment == "after")
                assert room.b.rejected(room.room_id) == damage.lost
            room.b.start()
        connection.close()
        job = finished(room.bob, repair_id or "")
        assert (job["status"], job["error"]) == ("complete", None)
        assert job["accepted"] == len(damage.lost)
        assert_whole(room)


def noted(database: PostgresDatabase, job_id: str) -> tuple[str, str | None]:
    """A job's status and error, as they are stored."""
    sql = "SELECT status, error FROM rejection_repair_jobs WHERE job_id = ?"
    ((status, error),) = database.query(sql, job_id)
    return status, error
