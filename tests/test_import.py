"""A room's old history, out of an old server's database into a running server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import Client, MatrixError, quoted
from tests.harness.federation import running
from tests.harness.installs import INSTALLS
from tests.harness.postgres import Postgres
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import (
    TABLES,
    OldWorld,
    accepted,
    begin_room,
    come_late,
    finished,
    job_path,
    live,
    old_world,
    room_path,
    rows,
    signed,
    sources,
    states,
    tamper,
    untouched,
    with_third,
)

FLAVOURS = [
    pytest.param("1", "sqlite", "sqlite", "newest", id="v1"),
    pytest.param("6", "sqlite", "sqlite", "newest", id="v6", marks=pytest.mark.slow),
    pytest.param("10", "sqlite", "sqlite", "oldest", id="v10-oldest", marks=pytest.mark.oldest),
    pytest.param("12", "sqlite", "sqlite", "newest", id="v12"),
    pytest.param("11", "postgres", "sqlite", "newest", id="from-pg", marks=pytest.mark.postgres),
    pytest.param("11", "sqlite", "postgres", "newest", id="to-pg", marks=pytest.mark.postgres),
    pytest.param(
        "12",
        "postgres",
        "postgres",
        "oldest",
        id="pg-to-pg-oldest",
        marks=[pytest.mark.postgres, pytest.mark.oldest, pytest.mark.slow],
    ),
]


def database(request: pytest.FixtureRequest, kind: str) -> Any:
    if kind == "sqlite":
        return None
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create_database()


@pytest.mark.parametrize(("version", "source", "target", "install"), FLAVOURS)
def test_the_whole_history_arrives(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    version: str,
    source: str,
    target: str,
    install: str,
) -> None:
    with old_world(
        tmp_path,
        version,
        a_database=database(request, source),
        b_database=database(request, target),
        b_install=INSTALLS[install],
    ) as world:
        theirs = accepted(world.a, world.room_id)
        ours = accepted(world.b, world.room_id)
        lacking = theirs - ours
        summary = world.dry_run()
        assert summary["source_events"] == len(theirs)
        assert summary["present"] == len(theirs & ours)
        assert summary["to_import"] == len(lacking)
        assert summary["outliers"] > 0
        assert summary["encrypted"] == 1
        zero = (
            "rejected",
            "soft_failed",
            "bad_hash",
            "bad_signature",
            "unreadable",
            "fails_auth",
            "gaps",
            "hidden_by_visibility",
            "erased",
            "newer",
        )
        for nothing in zero:
            assert summary[nothing] == 0, nothing
        assert accepted(world.b, world.room_id) == ours, "a dry run must write nothing"
        (room,) = world.bob.repair_api("GET", "/sources/old/rooms")["rooms"]
        assert room == {
            "room_id": world.room_id,
            "events": len(theirs),
            "missing": len(lacking),
            "joined": True,
        }

        job = world.import_room(verify_signatures=True)
        assert job["status"] == "complete", job
        assert (job["imported"], job["skipped"]) == (len(lacking), {})
        assert job["total"] == job["done"] == len(lacking)

        compare(world, theirs, lacking)
        read_back(world)

        again = world.import_room()
        assert (again["status"], again["imported"], again["total"]) == ("complete", 0, 0)
        assert world.dry_run()["to_import"] == 0
        assert world.b.errors_in_log() == []
        args = world.a.database.synapse_config()["args"]
        secret = str(args.get("host") or args["database"])
        assert secret not in world.b.log_text()

        # The room goes on, and an event on top of all this is whole too.
        sent = world.bob.send_message(world.room_id, "And here I am")
        assert world.bob.messages(world.room_id, limit=10)[0]["event_id"] == sent


@pytest.mark.slow
def test_every_other_room_version(tmp_path: Path) -> None:
    a = Server(tmp_path / "a", modules=[])
    b = Server(tmp_path / "b", modules=sources(old=a.database.synapse_config()))
    with running(a, b):
        alice, anna, carol = (a.register(name) for name in ("alice", "anna", "carol"))
        bob = b.register("bob", admin=True)
        worlds = []
        for version in ("2", "3", "4", "5", "7", "8", "9"):
            room = begin_room(a, b, alice, anna, bob, version)
            # No third server: A itself sends A what makes the room's history fork.
            worlds.append(with_third(room, a, carol))
            live(worlds[-1], 10)
            come_late(worlds[-1])
        a.stop()
        theirs = {w.room_id: accepted(a, w.room_id) for w in worlds}
        lacking = {w.room_id: theirs[w.room_id] - accepted(b, w.room_id) for w in worlds}
        sorted_rooms(bob, theirs, lacking)
        cancelled_in_the_queue(bob, worlds[0].room_id, worlds[1].room_id)
        lacking = {w.room_id: theirs[w.room_id] - accepted(b, w.room_id) for w in worlds}
        body = {"source": "old", "dry_run": False, "room_ids": [*theirs]}
        answer = bob.repair_api("POST", "/imports", body)
        jobs = [finished(bob, room["import_id"]) for room in answer["rooms"]]
        assert [(j["room_id"], j["status"], j["imported"], j["skipped"]) for j in jobs] == [
            (room_id, "complete", len(events), {}) for room_id, events in lacking.items()
        ]
        for world in worlds:
            assert len(world.forks) == 1
            compare(world, theirs[world.room_id], lacking[world.room_id])
            assert [e["event_id"] for e in bob.messages(world.room_id)] == world.order
            assert "body" not in bob.event(world.room_id, world.redacted)["content"]
            edited = bob.event(world.room_id, world.edited)
            assert "m.replace" in edited["unsigned"]["m.relations"]
        assert b.errors_in_log() == []


def cancelled_in_the_queue(bob: Client, first: str, second: str) -> None:
    """An import that is cancelled while it waits for another does not wait on for its end."""
    body = {"source": "old", "dry_run": False, "room_ids": [first, second], "events_per_second": 1}
    answer = bob.repair_api("POST", "/imports", body)
    running_job, waiting = (room["import_id"] for room in answer["rooms"])
    bob.repair_api("POST", job_path(waiting) + "/cancel", {})
    over = finished(bob, waiting, timeout=20)
    assert (over["status"], over["imported"], over["error"]) == ("cancelled", 0, None)
    assert bob.repair_api("GET", job_path(running_job))["status"] == "active"
    bob.repair_api("POST", job_path(running_job) + "/cancel", {})
    assert finished(bob, running_job)["status"] == "cancelled"


def sorted_rooms(bob: Client, theirs: dict[str, set[str]], lacking: dict[str, set[str]]) -> None:
    """The rooms of the source in each order that may be asked for, a page at a time."""
    rows = {r: {"room_id": r, "events": len(theirs[r]), "missing": len(lacking[r])} for r in theirs}
    for order_by in ("room_id", "events", "missing", "joined"):
        for backwards in (False, True):
            expected = sorted(
                rows, key=lambda r: (rows[r].get(order_by, True), r), reverse=backwards
            )
            query = {"order_by": order_by, "dir": "b" if backwards else "f", "limit": "4"}
            first = bob.repair_api("GET", "/sources/old/rooms", params=query)
            query["from"] = first["next_token"]
            second = bob.repair_api("GET", "/sources/old/rooms", params=query)
            found = [*first["rooms"], *second["rooms"]]
            assert found == [{**rows[r], "joined": True} for r in expected]


def compare(world: OldWorld, theirs: set[str], lacking: set[str]) -> None:
    a, b, room_id = world.a, world.b, world.room_id
    assert theirs <= accepted(b, room_id)
    assert not b.rejected(room_id)
    assert signed(b, theirs) == signed(a, theirs)
    for table in TABLES:
        if table == "event_search" and "host" in (
            {**a.database.synapse_config()["args"], **b.database.synapse_config()["args"]}
        ):
            their_rows = {r[:2] for r in rows(a, table, theirs)}
            our_rows = {r[:2] for r in rows(b, table, theirs)}
        else:
            their_rows, our_rows = rows(a, table, theirs), rows(b, table, theirs)
        assert our_rows == their_rows, table
    assert states(b, theirs) == states(a, theirs)
    query = b.database.query
    orderings: dict[str, int] = dict(
        query("SELECT event_id, stream_ordering FROM events WHERE room_id = ?", room_id)
    )
    assert all(orderings[i] < 0 for i in lacking)
    chained = {i for (i,) in query("SELECT event_id FROM event_auth_chains")}
    assert {i for i, _, _ in rows(b, "state_events", theirs)} <= chained
    assert query("SELECT * FROM event_backward_extremities WHERE room_id = ?", room_id) == []
    assert untouched(b, world.bob, room_id) == world.facts
    told = world.bob.sync(world.since).get("rooms", {}).get("join", {})
    assert room_id not in told


def read_back(world: OldWorld) -> None:
    bob, r = world.bob, world.room_id
    for limit in (100, 7):
        seen = [e["event_id"] for e in bob.messages(r, limit=limit)]
        assert len(seen) == len(set(seen))
        assert seen == world.order
    assert bob.messages(r)[-1]["type"] == "m.room.create"
    assert world.messages[10] in bob.search("Wörd10")
    redacted = bob.event(r, world.messages[7])
    assert "body" not in redacted["content"]
    assert not bob.search("Wörd7")
    assert bob.event(r, world.messages[5])["unsigned"]["m.relations"]["m.replace"]
    assert len(bob.relations(r, world.thread_root, "m.thread")) == 3
    thread = bob.event(r, world.thread_root)["unsigned"]["m.relations"]["m.thread"]
    assert thread["latest_event"]["content"]["body"] == "Reply 2"
    context = bob.context(r, world.messages[20])
    around = [e["event_id"] for e in context["events_before"]]
    at = world.order.index(world.messages[20])
    assert around == world.order[at + 1 : at + 1 + len(around)]
    first = bob.messages(r)[-1]
    answer = bob.call(
        "GET",
        "/_matrix/client/v1" + room_path(r, "timestamp_to_event"),
        params={"ts": first["origin_server_ts"], "dir": "f"},
    )
    assert answer["event_id"] in world.order[-10:]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with old_world(tmp_path_factory.mktemp("world"), "11") as made:
        yield made


def refused(client: Client, method: str, path: str, body: Any = None) -> tuple[int, str | None]:
    with pytest.raises(MatrixError) as error:
        client.repair_api(method, path, body)
    return error.value.status, error.value.errcode


def test_what_makes_no_sense_is_refused(world: OldWorld) -> None:
    path = room_path(world.room_id, "import")
    invalid = (400, "M_INVALID_PARAM")
    for body in (
        {},
        {"source": 1},
        {"source": ""},
        {"source": "old", "dryrun": False},
        {"source": "old", "dry_run": "no"},
        {"source": "old", "events_per_second": 0},
        {"source": "old", "events_per_second": True},
        {"source": "old", "verify_signatures": 1},
    ):
        assert refused(world.bob, "POST", path, body) == invalid, body
    assert refused(world.bob, "POST", path, {"source": "new"}) == (404, "M_NOT_FOUND")
    assert refused(world.bob, "GET", "/sources/new/rooms") == (404, "M_NOT_FOUND")
    assert refused(world.bob, "GET", "/imports/none") == (404, "M_NOT_FOUND")
    assert refused(world.bob, "POST", "/imports/none/cancel", {}) == (404, "M_NOT_FOUND")
    unknown = room_path("!nowhere:example.org", "import")
    assert refused(world.bob, "POST", unknown, {"source": "old"}) == (404, "M_NOT_FOUND")
    own = world.bob.create_room("11")
    only_here = refused(world.bob, "POST", room_path(own, "import"), {"source": "old"})
    assert only_here == (404, "M_NOT_FOUND")
    for room_ids in (None, "some", [], [1], ["nonsense"]):
        many: Any = {"source": "old", "room_ids": room_ids}
        assert refused(world.bob, "POST", "/imports", many) == invalid, room_ids
    assert world.bob.repair_api("GET", "/sources") == {"sources": [{"name": "old"}], "total": 1}


def test_many_rooms_and_their_answers(world: OldWorld) -> None:
    body = {"source": "old", "room_ids": [world.room_id, "!nowhere:example.org"]}
    answer = world.bob.repair_api("POST", "/imports", body)
    assert answer["dry_run"] is True
    first, second = answer["rooms"]
    assert first == {"room_id": world.room_id, "summary": world.dry_run()}
    assert (second["room_id"], second["errcode"]) == ("!nowhere:example.org", "M_NOT_FOUND")
    answer = world.bob.repair_api("POST", "/imports", {"source": "old", "room_ids": "all"})
    assert [room["room_id"] for room in answer["rooms"]] == [world.room_id]
    assert world.bob.repair_api("GET", "/imports")["total"] == 0


def test_cancelled_and_gone_on_with(world: OldWorld) -> None:
    theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
    job = world.import_room(wait=False, events_per_second=1)
    path = room_path(world.room_id, "import")
    assert refused(world.bob, "POST", path, {"source": "old", "dry_run": False}) == (
        409,
        "M_CONFLICT",
    )
    wait_for(lambda: world.bob.repair_api("GET", job_path(job["import_id"]))["imported"])
    world.bob.repair_api("POST", job_path(job["import_id"]) + "/cancel", {})
    # At whatever rate: nobody is to wait until a whole batch is due, 50 s later.
    job = finished(world.bob, job["import_id"], timeout=20)
    assert job["status"] == "cancelled"
    assert 0 < job["imported"] < len(theirs - before)
    assert len(accepted(world.b, world.room_id) - before) == job["imported"]
    assert refused(world.bob, "POST", job_path(job["import_id"]) + "/cancel", {})[0] == 409

    rest = world.import_room()
    assert rest["imported"] == len(theirs - before) - job["imported"]
    compare(world, theirs, theirs - before)
    read_back(world)


def test_a_room_that_is_purged_meanwhile_stays_so(tmp_path: Path) -> None:
    with old_world(tmp_path, "11") as world:
        import_id = world.start_import(events_per_second=5)
        wait_for(lambda: world.bob.repair_api("GET", job_path(import_id))["imported"])
        path = "/_synapse/admin/v2/rooms"
        world.bob.call("DELETE", path + quoted(world.room_id), {"purge": True, "force_purge": True})
        job = finished(world.bob, import_id)
        assert job["status"] == "failed" and "is not in room" in job["error"]
        for table in ("events", "event_json", "state_events", "event_backward_extremities"):
            sql = f"SELECT COUNT(*) FROM {table} WHERE room_id = ?"
            assert world.b.database.value(sql, world.room_id) == 0, table
        assert world.b.errors_in_log() == []


@pytest.mark.slow
def test_a_third_server_gets_the_history_from_us(tmp_path: Path) -> None:
    # Of one in which relations were redacted at once, D gets no more than half from A either.
    with old_world(tmp_path, "11", take_back=False) as world:
        assert world.import_room()["status"] == "complete"
        notary = {"server_name": world.b.name, "accept_keys_insecurely": True}
        third = Server(tmp_path / "d", modules=[], config={"trusted_key_servers": [notary]})
        try:
            dora = third.start().register("dora")
            dora.join(world.room_id, via=world.b.name)

            def all_of_it() -> bool:
                seen = {e["event_id"] for e in dora.messages(world.room_id)}
                return set(world.order) <= seen

            wait_for(all_of_it, 60, what="D to have the whole history")
        finally:
            third.stop()


def test_nothing_is_believed(tmp_path: Path) -> None:
    with old_world(tmp_path, "11") as world:
        said, forged, lost, broken, moved, slandered, deep = (
            world.messages[n] for n in (10, 14, 16, 18, 20, 22, 24)
        )
        tamper(world, said, lambda t: t.replace("Wörd10", "Lies10").replace("W\\u00f6rd10", "Lies"))
        tamper(world, forged, lambda t: t.replace("@alice", "@mallo"))
        tamper(world, broken, lambda t: t[: len(t) // 2])
        tamper(world, deep, lambda t: '{"a":' * 50_000 + "1" + "}" * 50_000)
        tamper(world, moved, lambda t: t.replace(world.room_id, "!other:example.org"))
        world.a.database.execute("DELETE FROM event_json WHERE event_id = ?", lost)
        tamper(
            world,
            slandered,
            lambda t: re.sub(r'"ed25519:[^"]*": *"[^"]*"', '"ed25519:x": "AAAA"', t),
        )
        summary = world.dry_run()
        # The three without JSON and those of another id do not arrive.
        theirs = accepted(world.a, world.room_id)
        here = accepted(world.b, world.room_id)
        assert (summary["bad_hash"], summary["unreadable"]) == (3, 3)
        assert summary["to_import"] == len(theirs - here) - 5

        job = world.import_room(verify_signatures=True)
        assert job["status"] == "complete", job
        assert job["skipped"] == {"bad_event_id": 2, "missing_json": 3, "unknown_key": 1}
        listed = world.bob.repair_api("GET", job_path(job["import_id"]) + "/skipped")
        assert {s["event_id"]: s["reason"] for s in listed["skipped"]} == {
            forged: "bad_event_id",
            moved: "bad_event_id",
            lost: "missing_json",
            broken: "missing_json",
            deep: "missing_json",
            slandered: "unknown_key",
        }
        assert listed["total"] == 6
        ours = accepted(world.b, world.room_id)
        assert theirs - ours == {forged, lost, broken, moved, slandered, deep}
        assert "body" not in world.bob.event(world.room_id, said)["content"]
        assert not world.b.rejected(world.room_id)
        assert untouched(world.b, world.bob, world.room_id) == world.facts
        # What follows the lost ones has the state that the source had there.
        kept = theirs & ours
        assert states(world.b, kept) == states(world.a, kept)
        assert world.b.errors_in_log() == []


def test_gaps_of_the_old_server(tmp_path: Path) -> None:
    first = []

    def purge(world: OldWorld) -> None:
        # As Synapse's own purge of history leaves it: what was before is gone, and the
        # state that it set is kept as outliers. What comes first then is somebody's new name,
        # which only somebody who was in the room before can have taken.
        r, anna = world.room_id, world.anna
        world.alice.send_state(r, "m.room.join_rules", {"join_rule": "invite"})
        member = {"membership": "join", "displayname": "Anna the Second"}
        first.append(anna.send_state(r, "m.room.member", member, anna.user_id))
        world.alice.send_state(r, "m.room.join_rules", {"join_rule": "public"})
        live(world, 36)
        # It would give A back what A has purged.
        world.c.stop()
        world.alice.admin("POST", f"/v1/purge_history/{r}/{first[0]}", delete_local_events=True)
        wait_for(
            lambda: (
                not world.a.database.query(
                    "SELECT 1 FROM events WHERE event_id = ?", world.messages[4]
                )
            ),
            what="A to have purged",
        )

    with old_world(tmp_path, "11", messages=12, spoil=purge) as world:
        make_complete(world, first[0])
        theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
        summary = world.dry_run()
        assert summary["gaps"] >= 1
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {}), job
        assert theirs <= accepted(world.b, world.room_id)
        assert job["imported"] == len(theirs - before)
        # At its join, B could not check what C had signed.
        arrived = theirs - before
        assert states(world.b, arrived) == states(world.a, arrived)
        assert signed(world.b, theirs) == signed(world.a, theirs)
        seen = [e["event_id"] for e in world.bob.messages(world.room_id)]
        assert [i for i in seen if i in theirs] == [i for i in world.order if i in theirs]


def make_complete(world: OldWorld, event_id: str) -> None:
    """Makes the state group of an event of A's one without another before it.

    So it is once the one before has been deleted, which Synapse does some time after a purge.
    """
    a = world.a.database
    group = a.value("SELECT state_group FROM event_to_state_groups WHERE event_id = ?", event_id)
    (state,) = states(world.a, {event_id}).values()
    a.execute("DELETE FROM state_group_edges WHERE state_group = ?", group)
    a.execute("DELETE FROM state_groups_state WHERE state_group = ?", group)
    a.execute_many(
        "INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)"
        " VALUES (?, ?, ?, ?, ?)",
        [(group, world.room_id, type_, key, one) for (type_, key), one in state.items()],
    )


def test_databases_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    foreign = tmp_path / "secret" / "foreign.db"
    truncated = tmp_path / "secret" / "text.db"
    truncated.write_text("no database" * 1000)
    import sqlite3

    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE events (event_id TEXT)")
    old = tmp_path / "secret" / "old.db"
    with sqlite3.connect(old) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        connection.execute("INSERT INTO schema_version VALUES (54)")

    def sqlite(path: Path) -> dict[str, Any]:
        return {"name": "sqlite3", "args": {"database": str(path)}}

    server = Server(
        tmp_path / "b",
        modules=sources(
            gone=sqlite(tmp_path / "secret" / "gone.db"),
            foreign=sqlite(foreign),
            text=sqlite(truncated),
            old=sqlite(old),
            pg={
                "name": "psycopg2",
                "args": {"host": "127.0.0.1", "port": 1, "user": "u", "password": "hunter2"},
            },
        ),
    )
    try:
        admin = server.start().register("admin", admin=True)
        for name, words in (
            ("gone", "not there"),
            ("foreign", "no database of Synapse's"),
            ("text", "no SQLite database"),
            ("old", "54"),
            ("pg", "PostgreSQL"),
        ):
            with pytest.raises(MatrixError, match=words) as error:
                admin.repair_api("GET", f"/sources/{name}/rooms")
            assert error.value.status == 409
            assert "secret" not in str(error.value)
            assert "hunter2" not in str(error.value)
        for word in ("hunter2", "/secret/"):
            assert word not in server.log_text()
        assert server.errors_in_log() == []
    finally:
        server.stop()
