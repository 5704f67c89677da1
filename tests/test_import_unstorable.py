"""Events that a server's Synapse fails to store, where nothing foretells it: the rest arrives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness.brake import brake
from tests.harness.braked import PERSIST
from tests.harness.compare import inconsistencies
from tests.harness.database import PostgresDatabase
from tests.harness.repairing import repair
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import OldWorld, accepted, finished, job_path, old_world, states
from tests.test_import import database
from tests.test_import_interrupted import AHEAD, loads_brake, noted, over

DATABASES = ["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.slow])]
MANY = 11
"""More than can fail in a row before it is taken for the database's fault."""


def refuse(server: Server, table: str, *event_ids: str) -> None:
    """Lets a stopped server's database refuse some events in a table, whatever they are."""
    name = f"refuse_{table}"
    ids = ", ".join(f"'{event_id}'" for event_id in event_ids)
    refused = f"WHEN (NEW.event_id IN ({ids}))"
    if isinstance(server.database, PostgresDatabase):
        server.database.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'refused'; END $$"
        )
        how = f"FOR EACH ROW {refused} EXECUTE FUNCTION {name}()"
    else:
        how = f"{refused} BEGIN SELECT RAISE(ABORT, 'refused'); END"
    server.database.execute(f"CREATE TRIGGER {name} BEFORE INSERT ON {table} {how}")


def refuse_no_more(server: Server, table: str) -> None:
    on = f" ON {table}" if isinstance(server.database, PostgresDatabase) else ""
    server.database.execute(f"DROP TRIGGER refuse_{table}{on}")


@pytest.mark.parametrize("kind", DATABASES)
def test_the_rest_arrives(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    control = tmp_path / "brake.json"
    as_accepted: list[str] = []
    at_all: list[str] = []

    def spoil(world: OldWorld) -> None:
        r, alice = world.room_id, world.alice
        as_accepted.append(alice.send_message(r, "Not as accepted"))
        alice.send_message(r, "After it")
        as_accepted.append(alice.send_state(r, "m.room.topic", {"topic": "Not as accepted"}))
        alice.send_message(r, "On the topic")
        alice.send_state(r, "m.room.topic", {"topic": "The one that B was given at its join"})
        at_all.append(alice.send_message(r, "Not at all"))
        alice.send_message(r, "The last")

    with old_world(
        tmp_path,
        "11",
        b_database=database(request, kind),
        messages=6,
        modules=lambda a: loads_brake(control, a),
        spoil=spoil,
    ) as world:
        b, bob, r = world.b, world.bob, world.room_id
        theirs, before = accepted(world.a, r), accepted(b, r)
        b.stop()
        refuse(b, "event_edges", *as_accepted)
        refuse(b, "event_json", *at_all)
        b.start()
        failing = {*as_accepted, *at_all}
        # Killed wherever a transaction of these can be cut off from the next.
        brake(control, {"transaction": PERSIST, "nth": 3, "kill": "after"})
        import_id = world.start_import()
        kills = 0
        while True:
            wait_for(lambda: not b.running or over(b, import_id), what="a kill or the end")
            if b.running:
                break
            kills += 1
            b.kill()
            brake(control, {"transaction": PERSIST, "nth": 3, "kill": "after"})
            b.launch()
        assert kills >= 3
        brake(control)
        b.restart()
        job = finished(bob, import_id)
        assert (job["status"], job["skipped"]) == ("complete", {"unstorable": 3}), job
        assert job["imported"] == len(theirs - before - failing)
        assert accepted(b, r) >= theirs - failing
        assert b.rejected(r) == {*as_accepted}
        gaps = "SELECT event_id FROM event_backward_extremities WHERE room_id = ?"
        assert b.database.query(gaps, r) == []
        skipped = bob.repair_api("GET", job_path(import_id) + "/skipped")["skipped"]
        assert {s["event_id"]: s["reason"] for s in skipped} == dict.fromkeys(failing, "unstorable")
        assert all("Error" in s["error"] or "Exception" in s["error"] for s in skipped)
        assert inconsistencies(b, r) == {}

        # Once the cause is gone, nothing of it is left.
        b.stop()
        refuse_no_more(b, "event_edges")
        refuse_no_more(b, "event_json")
        b.start()
        again = world.import_room()
        assert (again["imported"], again["skipped"]) == (1, {"rejected_here": 2})
        assert repair(bob, r)["accepted"] == 2
        assert accepted(b, r) >= theirs and b.rejected(r) == set()
        assert states(b, theirs) == states(world.a, theirs)
        shown = [event["event_id"] for event in bob.messages(r)]
        assert shown == world.order
        assert inconsistencies(b, r) == {}


@pytest.mark.parametrize("kind", DATABASES)
def test_killed_as_what_failed_is_about_to_be_stored_as_rejected(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    control = tmp_path / "brake.json"
    failing: list[str] = []

    def spoil(world: OldWorld) -> None:
        failing.append(world.alice.send_message(world.room_id, "Not as accepted"))
        world.alice.send_message(world.room_id, "The last")

    with old_world(
        tmp_path,
        "11",
        b_database=database(request, kind),
        messages=2,
        modules=lambda a: loads_brake(control, a),
        spoil=spoil,
    ) as world:
        b, r = world.b, world.room_id
        theirs, before = accepted(world.a, r), accepted(b, r)
        b.stop()
        refuse(b, "event_edges", *failing)
        b.start()
        older = [i for i in world.order[world.order.index(failing[0]) + 1 :] if i not in before]
        # All at once, which fails, each older one, that one, which fails, and what is stored in its
        # stead: where one fails, the next counts for it.
        nth = 1 + len(older) + 1
        brake(control, {"transaction": PERSIST, "nth": nth, "kill": "before"})
        import_id = world.start_import()
        wait_for(lambda: not b.running, what="the kill")
        b.kill()
        assert any(f"{failing[0]} cannot be stored" in line for line in b.errors_in_log())
        assert b.rejected(r) == set()
        assert accepted(b, r) == before | {*older}
        b.start()
        job = finished(world.bob, import_id)
        assert (job["status"], job["skipped"]) == ("complete", {"unstorable": 1}), job
        assert b.rejected(r) == {*failing}
        assert accepted(b, r) >= theirs - {*failing}
        assert inconsistencies(b, r) == {}


@pytest.mark.postgres
def test_a_later_transaction_of_a_batch_fails(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On PostgreSQL a batch is larger than what Synapse stores in a transaction."""
    control = tmp_path / "brake.json"

    def talk(world: OldWorld) -> None:
        for number in range(350):
            world.alice.send_message(world.room_id, f"So much to say: {number}")

    with old_world(
        tmp_path,
        "11",
        b_database=database(request, "postgres"),
        messages=2,
        modules=lambda a: loads_brake(control, a),
        spoil=talk,
    ) as world:
        b, bob, r = world.b, world.bob, world.room_id
        theirs, before = accepted(world.a, r), accepted(b, r)
        oldest_first = [i for i in reversed(world.order) if i not in before]
        # Behind what is read ahead in smaller batches, and the first of the large one's hundreds.
        begins = sum(AHEAD) + 100
        failing = {oldest_first[begins + 2], oldest_first[begins + 60]}
        b.stop()
        refuse(b, "event_edges", *failing)
        b.start()
        # The batches ahead, a hundred, another that fails, and two of that one by one.
        brake(control, {"transaction": PERSIST, "nth": len(AHEAD) + 4, "kill": "before"})
        import_id = world.start_import()
        wait_for(lambda: not b.running, what="the kill")
        b.kill()
        assert one_by_one(b) == [100]
        assert accepted(b, r) - before == {*oldest_first[: begins + 1]}
        assert noted(b, import_id) == begins + 1
        assert inconsistencies(b, r) == {}

        b.start()
        job = finished(bob, import_id)
        assert (job["status"], job["skipped"]) == ("complete", {"unstorable": 2}), job
        assert job["imported"] == len(theirs - before - failing)
        # The other 99 of the hundred in which it failed are read again, as one batch or, where
        # the first are cut before the server is found idle, as a few: only those in which it fails.
        assert one_by_one(b) in ([100, 99], [100, 25, 74], [100, 25, 49], [100, 25, 25])
        assert accepted(b, r) >= theirs - failing and b.rejected(r) == failing
        assert states(b, theirs - failing) == states(world.a, theirs - failing)
        assert inconsistencies(b, r) == {}


def one_by_one(server: Server) -> list[int]:
    """How many events at a time have been stored one by one, as the log tells it."""
    counts = re.findall(r"(\d+) events of \S+ are stored one by one", server.log_text())
    return [int(count) for count in counts]


@pytest.mark.postgres
def test_the_log_does_not_repeat_what_somebody_wrote(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """PostgreSQL says of a row that it refuses what is in it."""
    said: list[str] = []

    def talk(world: OldWorld) -> None:
        said.append(world.alice.send_message(world.room_id, "Ultracrepidarian"))
        world.alice.send_message(world.room_id, "The one that B was given at its join")

    with old_world(
        tmp_path, "11", b_database=database(request, "postgres"), messages=2, spoil=talk
    ) as world:
        world.b.stop()
        world.b.database.execute(
            f"ALTER TABLE event_search ADD CONSTRAINT refused CHECK (event_id <> '{said[0]}')"
        )
        world.b.start()
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {"unstorable": 1}), job
        (entry,) = world.b.errors_in_log()
        assert f"{said[0]} cannot be stored" in entry
        assert "SQLSTATE 23514, table event_search, constraint refused" in entry
        assert "ultracrepidarian" not in world.b.log_text().lower()


@pytest.mark.parametrize("kind", DATABASES)
def test_it_fails_over_what_is_stored_already(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    control = tmp_path / "brake.json"
    with old_world(
        tmp_path,
        "11",
        b_database=database(request, kind),
        messages=6,
        modules=lambda a: loads_brake(control, a),
    ) as world:
        b, r = world.b, world.room_id
        theirs, before = accepted(world.a, r), accepted(b, r)
        brake(control, {"transaction": PERSIST, "stumble": 20})
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {}), job
        assert job["imported"] == len(theirs - before)
        assert b.rejected(r) == set() and accepted(b, r) >= theirs
        failed = [line for line in b.errors_in_log() if f"events of {r} that are stored" in line]
        assert failed and all("builtins.RuntimeError" in entry for entry in failed)
        assert one_by_one(b) == []
        assert states(b, theirs) == states(world.a, theirs)
        assert inconsistencies(b, r) == {}


@pytest.mark.parametrize("what", ["too many in a row", "a state that B was given at its join"])
def test_nothing_is_left_out_that_could_not_be_mended(tmp_path: Path, what: str) -> None:
    refused: list[str] = []

    def spoil(world: OldWorld) -> None:
        r, alice = world.room_id, world.alice
        if what == "too many in a row":
            refused.extend(alice.send_message(r, f"No. {number}") for number in range(MANY))
        else:
            refused.append(alice.send_state(r, "m.room.topic", {"topic": "In the state"}))
        alice.send_message(r, "After it")

    with old_world(tmp_path, "11", messages=2, spoil=spoil) as world:
        theirs = accepted(world.a, world.room_id)
        world.b.stop()
        refuse(world.b, "event_edges", *refused)
        world.b.start()
        job = world.import_room()
        assert job["status"] == "failed" and "IntegrityError" in job["error"], job
        assert any("cannot be stored" in line for line in world.b.errors_in_log())
        world.b.stop()
        refuse_no_more(world.b, "event_edges")
        world.b.start()
        assert world.import_room()["status"] == "complete"
        if world.b.rejected(world.room_id):
            assert repair(world.bob, world.room_id)["rejected"] == 0
        assert accepted(world.b, world.room_id) >= theirs
        assert states(world.b, theirs) == states(world.a, theirs)
        assert inconsistencies(world.b, world.room_id) == {}
