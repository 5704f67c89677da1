"""Imports whose server is killed, or whose source goes away, and what becomes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.harness.brake import brake
from tests.harness.braked import PERSIST
from tests.harness.client import MatrixError
from tests.harness.compare import inconsistencies
from tests.harness.config import Module
from tests.harness.database import SqliteDatabase
from tests.harness.federation import running
from tests.harness.installs import OLDEST
from tests.harness.postgres import Postgres
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import (
    OldWorld,
    accepted,
    begin_room,
    come_late,
    finished,
    fork,
    job_path,
    live,
    old_world,
    signed,
    sources,
    states,
    untouched,
)
from tests.test_import import compare, database, read_back
from tests.test_import_edges import (
    accepted_topic,
    assert_related_as_in_a,
    by_carol,
    hold_as_outlier,
    redact,
    reject_outliers,
    rejected_topic,
    relate,
)

PER_TRANSACTION = 100
AHEAD = [25, 25, 25, 25]
"""Of how many events the batches are that are read before the first is stored."""
CANCEL = "rejection_repair_cancel_job"
CLOSE = "rejection_repair_close_gaps"
DATABASES = ["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.slow])]


def loads_brake(control: Path, a: Server) -> list[Module]:
    return [
        {"module": "tests.harness.brake.Brake", "config": {"control": str(control)}},
        *sources(old=a.database.synapse_config()),
    ]


@pytest.mark.parametrize("kind", DATABASES)
def test_killed_and_gone_on_with(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    control = tmp_path / "brake.json"
    with old_world(
        tmp_path,
        "11",
        b_database=database(request, kind),
        modules=lambda a: loads_brake(control, a),
    ) as world:
        theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
        import_id = killed_again_and_again(world, control)
        take_a_reserved_ordering(world, import_id)
        world.b.start()
        job = finished(world.bob, import_id)
        assert (job["status"], job["skipped"]) == ("complete", {}), job
        assert job["imported"] == len(theirs - before)
        compare(world, theirs, theirs - before)
        read_back(world)


@pytest.mark.postgres
def test_killed_between_the_transactions_of_a_batch(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On PostgreSQL a batch is larger than what Synapse stores in a transaction."""
    control = tmp_path / "brake.json"

    def talk(world: OldWorld) -> None:
        for number in range(250):
            world.alice.send_message(world.room_id, f"So much to say: {number}")

    with old_world(
        tmp_path,
        "11",
        b_database=database(request, "postgres"),
        modules=lambda a: loads_brake(control, a),
        messages=8,
        spoil=talk,
    ) as world:
        theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
        # The batches ahead, a hundred, another.
        brake(control, {"transaction": PERSIST, "nth": len(AHEAD) + 2, "kill": "before"})
        import_id = world.start_import()
        wait_for(lambda: not world.b.running, what="B to be killed")
        world.b.kill()
        stored = accepted(world.b, world.room_id) - before
        assert noted(world.b, import_id) == len(stored)
        assert inconsistencies(world.b, world.room_id) == {}
        assert_killed_amid_a_batch(world, import_id, stored)

        world.b.start()
        job = finished(world.bob, import_id)
        assert (job["status"], job["skipped"]) == ("complete", {}), job
        assert job["imported"] == len(theirs - before)
        compare(world, theirs, theirs - before)
        assert [e["event_id"] for e in world.bob.messages(world.room_id)] == world.order


def assert_killed_amid_a_batch(world: OldWorld, import_id: str, stored: set[str]) -> None:
    """A whole transaction of events is stored behind what the stopped B's job calls decided."""
    sql = "SELECT progress FROM rejection_repair_jobs WHERE job_id = ?"
    cursor = json.loads(world.b.database.value(sql, import_id))["cursor"]
    behind = world.a.database.query(
        "SELECT event_id FROM events WHERE room_id = ? AND NOT outlier"
        " AND (topological_ordering, stream_ordering) > (?, ?)",
        world.room_id,
        *cursor,
    )
    assert len(stored & {event_id for (event_id,) in behind}) == PER_TRANSACTION


def killed_again_and_again(world: OldWorld, control: Path) -> str:
    """Begins an import, kills B before and after it stores batches, and gives the import's id."""
    theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
    arrived = 0
    import_id = ""
    for nth, moment in ((1, "before"), (1, "after"), (2, "before"), (2, "after")):
        brake(control, {"transaction": PERSIST, "nth": nth, "kill": moment})
        if import_id:
            world.b.launch()
        else:
            import_id = world.start_import(events_per_second=20)
        wait_for(lambda: not world.b.running, what="B to be killed")
        world.b.kill()
        stored = len(accepted(world.b, world.room_id) - before)
        assert (stored == arrived) is ((nth, moment) == (1, "before"))
        assert noted(world.b, import_id) == stored
        assert inconsistencies(world.b, world.room_id) == {}
        arrived = stored
    assert arrived < len(theirs - before), "the import was over already"
    return import_id


def take_a_reserved_ordering(world: OldWorld, import_id: str) -> None:
    """Lets a stopped B have stored an event under a number that an import has set aside."""
    sql = "SELECT progress FROM rejection_repair_jobs WHERE job_id = ?"
    progress = json.loads(world.b.database.value(sql, import_id))
    hold_as_outlier(world, world.messages[-2], stream_ordering=progress["reserved"][0][0])


@pytest.mark.slow
@pytest.mark.oldest
def test_killed_where_not_everything_is_well(tmp_path: Path) -> None:
    """B had rejected what it was given at its join, and has redactions before their events."""
    control = tmp_path / "brake.json"
    bad: list[str] = []
    related: list[str] = []

    def spoil(world: OldWorld) -> None:
        related.extend(relate(world))
        bad.append(accepted_topic(world))

    with old_world(
        tmp_path,
        "11",
        b_install=OLDEST,
        modules=lambda a: loads_brake(control, a),
        spoil=spoil,
    ) as world:
        redact(world, related)
        world.b.stop()
        first = reject_outliers(world, bad[0])
        world.b.start()
        theirs = accepted(world.a, world.room_id) - set(bad)
        before = accepted(world.b, world.room_id)
        assert first not in before
        world.facts = untouched(world.b, world.bob, world.room_id)

        import_id = killed_again_and_again(world, control)
        world.b.start()
        job = finished(world.bob, import_id)
        assert (job["status"], job["skipped"]) == ("complete", {"auth_events": 1})
        assert job["imported"] == len(theirs - before)
        assert world.b.rejected(world.room_id) == set(bad)
        assert accepted(world.b, world.room_id) >= theirs
        assert signed(world.b, theirs) == signed(world.a, theirs)
        assert states(world.b, theirs) == states(world.a, theirs)
        assert_related_as_in_a(world, related)
        assert world.bob.event(world.room_id, first)["event_id"] == first
        assert untouched(world.b, world.bob, world.room_id) == world.facts
        assert inconsistencies(world.b, world.room_id) == {}


@pytest.mark.slow
def test_what_is_skipped_counts_once(tmp_path: Path) -> None:
    """Killed after each transaction, while a lied depth lets much of it be read again each time."""
    control = tmp_path / "brake.json"
    bad: list[str] = []

    def spoil(world: OldWorld) -> None:
        bad.append(rejected_topic(world))
        bad.append(accepted_topic(world))
        # Its merge has what comes before it stored first.
        fork(world, state=True)
        by_carol(world, "m.room.message", "I came first", depth=3)
        fork(world, state=True)

    with old_world(
        tmp_path, "11", messages=6, modules=lambda a: loads_brake(control, a), spoil=spoil
    ) as world:
        theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
        kill = {"transaction": PERSIST, "nth": 1, "kill": "after"}
        brake(control, kill)
        import_id = world.start_import()
        kills = 0
        while True:
            wait_for(
                lambda: not world.b.running or over(world.b, import_id), what="a kill or the end"
            )
            if world.b.running:
                break
            kills += 1
            world.b.kill()
            brake(control, kill)
            world.b.launch()
        brake(control)
        world.b.restart()
        assert kills >= 4
        job = finished(world.bob, import_id)
        assert (job["status"], job["skipped"]) == (
            "complete",
            {"auth_events": 1, "rejected_by_source": 1},
        ), job
        assert job["imported"] == len(theirs - before - {bad[1]})
        assert job["done"] == job["total"] == job["imported"] + 2
        skipped = world.bob.repair_api("GET", job_path(import_id) + "/skipped")["skipped"]
        assert {s["event_id"]: s["reason"] for s in skipped} == {
            bad[0]: "rejected_by_source",
            bad[1]: "auth_events",
        }


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_as_gaps_are_closed(tmp_path: Path, moment: str) -> None:
    """What the rules refuse stays an outlier, as B held it, and is no gap in the end."""
    control = tmp_path / "brake.json"
    bad: list[str] = []

    def spoil(world: OldWorld) -> None:
        bad.append(accepted_topic(world))
        # Synapse takes it for a gap again with what comes in a later batch.
        for number in range(PER_TRANSACTION):
            world.alice.send_message(world.room_id, f"Much later {number}")
        by_carol(world, "m.room.message", "After it", after=bad)

    with old_world(
        tmp_path, "11", messages=2, modules=lambda a: loads_brake(control, a), spoil=spoil
    ) as world:
        world.b.stop()
        hold_as_outlier(world, bad[0])
        world.b.start()
        right = accepted(world.a, world.room_id) - {*bad}

        def gaps() -> list[str]:
            sql = "SELECT event_id FROM event_backward_extremities WHERE room_id = ?"
            return [event_id for (event_id,) in world.b.database.query(sql, world.room_id)]

        brake(control, {"transaction": CLOSE, "nth": 1, "kill": moment})
        import_id = world.start_import()
        wait_for(lambda: not world.b.running, what="B to be killed")
        world.b.kill()
        assert not over(world.b, import_id) and accepted(world.b, world.room_id) >= right
        assert gaps() == (bad if moment == "before" else [])
        world.b.start()
        job = finished(world.bob, import_id)
        assert (job["status"], job["skipped"]) == ("complete", {"auth_events": 1}), job
        assert gaps() == []
        assert inconsistencies(world.b, world.room_id) == {}


def over(server: Server, import_id: str) -> bool:
    """Whether a job is complete, by its row."""
    sql = "SELECT status FROM rejection_repair_jobs WHERE job_id = ?"
    return bool(server.database.value(sql, import_id) == "complete")


@pytest.mark.slow
def test_killed_as_a_waiting_import_is_called_off(tmp_path: Path) -> None:
    control = tmp_path / "brake.json"
    a = Server(tmp_path / "a", modules=[])
    b = Server(tmp_path / "b", modules=loads_brake(control, a))
    with running(a, b):
        alice, anna = a.register("alice", admin=True), a.register("anna")
        bob = b.register("bob", admin=True)
        rooms = [begin_room(a, b, alice, anna, bob, "11") for _ in range(2)]
        for room in rooms:
            live(room, 12)
            come_late(room)
        a.stop()
        before = [accepted(b, room.room_id) for room in rooms]
        body: dict[str, Any] = {"source": "old", "dry_run": False, "events_per_second": 2}
        body["room_ids"] = [room.room_id for room in rooms]
        answer = bob.repair_api("POST", "/imports", body)
        first, waiting = (room["import_id"] for room in answer["rooms"])

        for moment in ("before", "after"):
            brake(control, {"transaction": CANCEL, "nth": 1, "kill": moment})
            with pytest.raises(requests.ConnectionError):
                bob.repair_api("POST", job_path(waiting) + "/cancel", {})
            b.kill()
            called = ("scheduled", False) if moment == "before" else ("cancelled", True)
            assert called_off(b, waiting) == called
            if moment == "before":
                b.start()

        b.start()
        job = bob.repair_api("GET", job_path(waiting))
        assert (job["status"], job["imported"], job["error"]) == ("cancelled", 0, None)
        assert finished(bob, first)["status"] == "complete"
        assert accepted(b, rooms[0].room_id) > before[0]
        assert accepted(b, rooms[1].room_id) == before[1]


def called_off(server: Server, import_id: str) -> tuple[str, bool]:
    """The status of a stopped server's job, and whether somebody has cancelled it."""
    sql = "SELECT status, cancel_requested FROM rejection_repair_jobs WHERE job_id = ?"
    ((status, cancelled),) = server.database.query(sql, import_id)
    return status, bool(cancelled)


def noted(server: Server, import_id: str) -> int:
    """How many events a stopped server's job says that it has imported."""
    sql = "SELECT progress FROM rejection_repair_jobs WHERE job_id = ?"
    return int(json.loads(server.database.value(sql, import_id))["imported"])


@pytest.mark.slow
def test_a_file_that_is_cut_or_gone_in_mid_import(tmp_path: Path) -> None:
    # What was read ahead when the file is cut is imported.
    with old_world(tmp_path, "11", messages=160) as world:
        theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
        assert isinstance(world.a.database, SqliteDatabase)
        file = world.a.database.path
        whole = file.read_bytes()
        for left in (len(whole) // 2, 0):
            with interrupted(world, "damaged or truncated"):
                os.truncate(file, left)
            file.write_bytes(whole)
        with interrupted(world, "not there"):
            # Who has it open reads on; only a new start looks for it.
            file.rename(tmp_path / "away.db")
            world.b.restart()
        (tmp_path / "away.db").rename(file)
        brought_to_an_end(world, theirs, before)


@pytest.mark.slow
@pytest.mark.postgres
def test_a_database_server_that_dies_in_mid_import(tmp_path: Path) -> None:
    cluster = Postgres()
    try:
        cluster.start()
        with old_world(tmp_path, "11", a_database=cluster.create_database()) as world:
            theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
            with interrupted(world, "has ended the connection"):
                cluster.kill()
            cluster.start()
            brought_to_an_end(world, theirs, before)
    finally:
        cluster.close()


@contextmanager
def interrupted(world: OldWorld, words: str) -> Iterator[None]:
    """Begins an import whose source the body takes away, and sees how it fails."""
    bob, room_id = world.bob, world.room_id
    import_id = world.start_import(events_per_second=10)

    def status() -> dict[str, Any]:
        job: dict[str, Any] = bob.repair_api("GET", job_path(import_id))
        return job

    wait_for(lambda: status()["imported"], what="the import to get going")
    yield
    job = finished(bob, import_id)
    assert job["status"] == "failed"
    assert 0 < job["imported"] < job["total"]
    assert job["error"].startswith("Source 'old' cannot be read: ")
    assert words in job["error"]
    with pytest.raises(MatrixError, match=r"cannot be read|is refused") as error:
        world.dry_run()
    assert error.value.status == 409
    secrets = [str(v) for v in world.a.database.synapse_config()["args"].values() if "/" in str(v)]
    assert secrets
    for secret in secrets:
        assert secret not in job["error"] + str(error.value) + world.b.log_text()
    assert inconsistencies(world.b, room_id) == {}
    # Whatever of it is here, nobody who reads the room runs into an error.
    seen = [e["event_id"] for e in bob.messages(room_id)]
    assert [i for i in world.order if i in seen] == seen
    bob.sync()
    assert bob.context(room_id, seen[-1])["event"]["event_id"] == seen[-1]


def brought_to_an_end(world: OldWorld, theirs: set[str], before: set[str]) -> None:
    came = accepted(world.b, world.room_id) - before
    job = world.import_room()
    assert (job["status"], job["skipped"]) == ("complete", {})
    assert job["imported"] == len(theirs - before - came)
    compare(world, theirs, theirs - before)
    read_back(world)
    assert world.b.errors_in_log() == []
