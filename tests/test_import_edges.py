"""What an import makes of events that are not like the others."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import Client, quoted
from tests.harness.database import SqliteDatabase
from tests.harness.hostile import HostilePeer
from tests.harness.installs import INSTALLS
from tests.harness.postgres import Postgres
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import (
    OldWorld,
    accepted,
    live,
    old_world,
    room_path,
    signed,
    states,
    tamper,
    untouched,
)


def test_hidden_soft_failed_and_rejected(tmp_path: Path) -> None:
    """In one world: events that nobody here may see, one soft-failed, one rejected in A."""
    special: dict[str, str] = {}

    def spoil(world: OldWorld) -> None:
        r, alice = world.room_id, world.alice
        # Of state that came with B's join, a table has a row that only it may have.
        alice.send_state(r, "m.room.retention", {"max_lifetime": 10 * 365 * 86_400_000})
        # From here on only those see it who are in the room.
        alice.send_state(r, "m.room.history_visibility", {"history_visibility": "joined"})
        special["hidden"] = alice.send_message(r, "Among ourselves")
        alice.send_state(r, "m.room.history_visibility", {"history_visibility": "shared"})
        peer = HostilePeer(world.c, r)
        sees = HostilePeer(world.a, r)
        event: dict[str, Any] = {
            "type": "m.room.server_acl",
            "state_key": "",
            "sender": world.carol.user_id,
            "content": {},
            "room_id": r,
        }
        event.update(prev_events=[], auth_events=[], depth=1, origin_server_ts=0)
        tips = sees.extremities()
        pdu, special["rejected"] = peer.forge(
            "m.room.server_acl",
            world.carol.user_id,
            {},
            state_key="",
            prev_events=tips,
            auth_events=sees._auth_events(event),
            depth=sees._depth(tips),
        )
        peer.send(world.a, pdu)
        world.a.wait_for_event(special["rejected"])
        assert world.a.rejected(r) == {special["rejected"]}
        del event["state_key"]
        # One that follows the rejected one, so that it is cited.
        event["type"] = "m.room.message"
        pdu, special["after"] = peer.forge(
            "m.room.message",
            world.carol.user_id,
            {"msgtype": "m.text", "body": "After the rejected one"},
            prev_events=[special["rejected"]],
            auth_events=sees._auth_events(event),
            depth=sees._depth(tips) + 1,
        )
        peer.send(world.a, pdu)
        world.a.wait_for_event(special["after"])
        # Carol is banned; what she says on top of what was before is soft-failed.
        tips = sees.extremities()
        auth = sees._auth_events(event)
        alice.ban(r, world.carol.user_id)
        pdu, special["soft"] = peer.forge(
            "m.room.message",
            world.carol.user_id,
            {"msgtype": "m.text", "body": "I am still here"},
            prev_events=tips,
            auth_events=auth,
            depth=sees._depth(tips),
        )
        peer.send(world.a, pdu)
        world.a.wait_for_event(special["soft"])
        alice.send_message(r, "Peace")

    with old_world(tmp_path, "11", messages=12, spoil=spoil) as world:
        # As if somebody had scrolled up to what follows it, while there were servers to ask.
        world.b.database.execute(
            "INSERT INTO event_backward_extremities (event_id, room_id) VALUES (?, ?)",
            *(special["rejected"], world.room_id),
        )
        theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
        summary = world.dry_run()
        assert summary["hidden_by_visibility"] == 1, "not what hides it: that is seen by what was"
        assert summary["soft_failed"] == 1
        assert summary["rejected"] == 1
        assert summary["to_import"] == len(theirs - before)
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {"rejected_by_source": 1}), job
        assert theirs <= accepted(world.b, world.room_id)
        shown = {e["event_id"] for e in world.bob.messages(world.room_id)}
        assert theirs - before - shown == {special["hidden"], special["soft"]}
        assert world.b.rejected(world.room_id) == {special["rejected"]}
        assert signed(world.b, theirs) == signed(world.a, theirs)
        assert states(world.b, theirs) == states(world.a, theirs)
        metadata = world.b.database.value(
            "SELECT internal_metadata FROM event_json WHERE event_id = ?", special["soft"]
        )
        assert json.loads(metadata)["soft_failed"] is True
        seen = [e["event_id"] for e in world.bob.messages(world.room_id)]
        assert special["after"] in seen
        assert not {special["soft"], special["rejected"], special["hidden"]} & set(seen)
        assert [i for i in world.order if i in seen] == seen
        # Nobody's client asks dead servers for what is before the imported part.
        gaps = "SELECT * FROM event_backward_extremities WHERE room_id = ?"
        assert world.b.database.query(gaps, world.room_id) == []
        assert untouched(world.b, world.bob, world.room_id) == world.facts
        assert world.import_room()["total"] == 0
        assert world.b.errors_in_log() == []


def accepted_topic(world: OldWorld) -> str:
    """A topic that A accepted, though who set it was never in the room."""
    bad = rejected_topic(world)
    world.alice.send_message(world.room_id, "What was that?")
    world.a.database.execute("DELETE FROM rejections WHERE event_id = ?", bad)
    return bad


def rejected_topic(world: OldWorld) -> str:
    """A topic that A rejected, since who set it was never in the room."""
    sees, peer = HostilePeer(world.a, world.room_id), HostilePeer(world.c, world.room_id)
    tips = sees.extremities()
    event: dict[str, Any] = {"type": "m.room.topic", "sender": world.carol.user_id}
    event.update(content={}, room_id=world.room_id, state_key="")
    event.update(prev_events=[], auth_events=[], depth=1, origin_server_ts=0)
    pdu, bad = peer.forge(
        "m.room.topic",
        f"@nobody:{world.c.name}",
        {"topic": "Mine"},
        state_key="",
        prev_events=tips,
        auth_events=sees._auth_events(event),
        depth=sees._depth(tips),
    )
    peer.send(world.a, pdu)
    world.a.wait_for_event(bad)
    assert bad in world.a.rejected(world.room_id)
    return bad


@contextmanager
def fooled_world(folder: Path) -> Iterator[tuple[OldWorld, str]]:
    """A world with such a topic."""
    bad: list[str] = []
    with old_world(
        folder, "11", messages=6, spoil=lambda world: bad.append(accepted_topic(world))
    ) as world:
        yield world, bad[0]


def assert_all_but(world: OldWorld, bad: str, summary: dict[str, Any]) -> None:
    """Imports, and looks whether all of A's events arrive as the dry run said, and one rejected."""
    theirs = accepted(world.a, world.room_id) - {bad}
    job = world.import_room()
    assert (job["status"], job["skipped"]) == ("complete", {"auth_events": 1}), job
    assert job["imported"] == summary["to_import"]
    assert world.b.rejected(world.room_id) == {bad}
    assert accepted(world.b, world.room_id) >= theirs
    assert states(world.b, theirs) == states(world.a, theirs)


def test_what_fails_the_rules_is_stored_rejected(tmp_path: Path) -> None:
    """A source that accepted what it should not have: its verdict counts for nothing."""
    with fooled_world(tmp_path) as (world, bad):
        summary = world.dry_run()
        assert summary["fails_auth"] == 1
        assert_all_but(world, bad, summary)
        assert untouched(world.b, world.bob, world.room_id) == world.facts


def test_rejected_outliers_are_decided_anew(tmp_path: Path) -> None:
    """What B was given at its join, and took for bad: nearly all of the history cites it."""
    with fooled_world(tmp_path) as (world, bad):
        world.b.stop()
        first = reject_outliers(world, bad)
        world.b.start()

        theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
        summary = world.dry_run()
        assert (summary["to_import"], summary["fails_auth"]) == (len(theirs - before) - 1, 1)
        assert_all_but(world, bad, summary)
        assert world.bob.event(world.room_id, first)["event_id"] == first
        assert untouched(world.b, world.bob, world.room_id) == world.facts
        assert world.import_room()["total"] == 0
        assert world.b.errors_in_log() == []


@pytest.mark.slow
def test_accepted_outliers_are_decided_by_the_rules(tmp_path: Path) -> None:
    """What B was given at its join, and accepted: A had rejected some of it, one by mistake.

    Much later events follow both again, in batches of their own.
    """
    special: dict[str, str] = {}

    def spoil(world: OldWorld) -> None:
        special["good"] = rejected_by_a(world, "I break no rule")
        special["alone"] = rejected_by_a(world, "Nothing follows me, and I break no rule")
        special["bad"] = accepted_topic(world)
        for number in range(160):
            world.alice.send_message(world.room_id, f"Much later {number}")
        for one in ("good", "bad"):
            by_carol(world, "m.room.message", f"After {one}", after=[special[one]])
        world.alice.send_message(world.room_id, "After all")

    with old_world(tmp_path, "11", messages=2, spoil=spoil) as world:
        world.b.stop()
        for event_id in special.values():
            hold_as_outlier(world, event_id)
        world.b.start()
        right = accepted(world.a, world.room_id) - {special["bad"]}
        before = accepted(world.b, world.room_id)
        come = right | {special["good"], special["alone"]}

        summary = world.dry_run()
        assert (summary["to_import"], summary["fails_auth"]) == (len(come - before), 1)
        assert (summary["rejected"], summary["outliers"]) == (0, len(outliers(world) & come))
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {"auth_events": 1}), job
        assert job["imported"] == summary["to_import"]
        assert accepted(world.b, world.room_id) >= come
        assert outliers(world) & {*special.values()} == {special["bad"]}
        assert world.b.rejected(world.room_id) == set()
        assert states(world.b, right) == states(world.a, right)
        gaps = "SELECT event_id FROM event_backward_extremities WHERE room_id = ?"
        assert world.b.database.query(gaps, world.room_id) == []
        assert untouched(world.b, world.bob, world.room_id) == world.facts
        assert world.b.errors_in_log() == []


def outliers(world: OldWorld) -> set[str]:
    """What B holds without the state at it."""
    sql = "SELECT event_id FROM events WHERE room_id = ? AND outlier"
    return {event_id for (event_id,) in world.b.database.query(sql, world.room_id)}


def reject_outliers(world: OldWorld, bad: str) -> str:
    """Lets B have taken an event, and the first power levels, for bad at its join; gives these."""
    ((first,),) = world.b.database.query(
        "SELECT event_id FROM events WHERE room_id = ? AND outlier"
        " AND type = 'm.room.power_levels'"
        " AND event_id NOT IN (SELECT event_id FROM current_state_events)",
        world.room_id,
    )
    hold_as_outlier(world, bad)
    for event_id in (bad, first):
        world.b.database.execute(
            "INSERT INTO rejections (event_id, reason, last_check) VALUES (?, ?, ?)",
            *(event_id, "auth_error", "1"),
        )
    return str(first)


def hold_as_outlier(world: OldWorld, event_id: str, stream_ordering: int | None = None) -> None:
    """Lets B have an event of A's as if it had been part of what it was given at its join."""
    if stream_ordering is None:
        stream_ordering = world.b.database.value("SELECT MIN(stream_ordering) FROM events") - 1
    write_like(world, event_id, world.b, "events", outlier=True, stream_ordering=stream_ordering)
    write_like(world, event_id, world.b, "event_json")


def write_like(world: OldWorld, event_id: str, to: Server, table: str, /, **changed: Any) -> None:
    """Writes the row that A has of an event into a server's database, some of it changed."""
    assert isinstance(world.a.database, SqliteDatabase)
    with world.a.database.connect() as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT * FROM {table} WHERE event_id = ?", (event_id,))
        names = [column[0] for column in cursor.description]
        row = {**dict(zip(names, cursor.fetchone(), strict=True)), **changed}
    # SQLite has no booleans, and PostgreSQL takes no numbers for them.
    row.update({key: bool(row[key]) for key in ("processed", "contains_url") if key in row})
    marks = ", ".join("?" for _ in row)
    to.database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *row.values())


@pytest.mark.parametrize(
    "install",
    [
        pytest.param("oldest", marks=pytest.mark.oldest),
        pytest.param("newest", marks=pytest.mark.slow),
    ],
)
def test_what_was_redacted_since_relates_to_nothing(tmp_path: Path, install: str) -> None:
    """B has the redactions of a reaction, a reply and an edit before it has these.

    It has one of another reaction, too, which counts for nothing: it is in another room.
    """
    related: list[str] = []
    kept: list[str] = []

    def spoil(made: OldWorld) -> None:
        kept.append(made.alice.react(made.room_id, made.messages[3], "👍"))
        related.extend(relate(made))

    with old_world(
        tmp_path,
        "11",
        messages=6,
        b_install=INSTALLS[install],
        spoil=spoil,
    ) as world:
        redact(world, related)
        world.bob.redact(world.bob.create_room("11"), kept[0])
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {}), job
        assert_related_as_in_a(world, related)
        assert world.b.errors_in_log() == []


def relate(world: OldWorld) -> list[str]:
    """Has a reaction, a reply and an edit sent."""
    r, alice, messages = world.room_id, world.alice, world.messages
    return [
        alice.react(r, messages[0], "👎"),
        alice.send_in_thread(r, messages[1], "Never mind"),
        alice.edit(r, messages[2], "Nothing"),
    ]


def redact(world: OldWorld, event_ids: list[str]) -> None:
    """Has events redacted, once B is in the room; then A is stopped again."""
    world.a.start()
    for redaction in [world.alice.redact(world.room_id, event_id) for event_id in event_ids]:
        world.b.wait_for_event(redaction)
    world.a.stop()


def assert_related_as_in_a(world: OldWorld, redacted: list[str]) -> None:
    relations = "SELECT event_id, relates_to_id, relation_type FROM event_relations"
    theirs = sorted(world.a.database.query(relations))
    assert not set(redacted) & {event_id for event_id, *_ in theirs}
    assert sorted(world.b.database.query(relations)) == theirs


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_threads_across_a_gap(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """B was in the room, missed replies to a thread that it knows, and came back."""
    order: list[tuple[str, str]] = []
    missed: list[str] = []
    postgres: Postgres | None = None if kind == "sqlite" else request.getfixturevalue("postgres")

    def threads(user: Client, room_id: str) -> list[tuple[str, str]]:
        path = "/_matrix/client/v1" + room_path(room_id, "threads")
        return [
            (e["event_id"], e["unsigned"]["m.relations"]["m.thread"]["latest_event"]["event_id"])
            for e in user.call("GET", path)["chunk"]
        ]

    def leave_and_come_back(world: OldWorld) -> None:
        r, alice, bob = world.room_id, world.alice, world.bob
        bob.join(r, via=world.a.name)
        roots = [alice.send_message(r, f"Root {n}") for n in range(2)]
        world.b.wait_for_event(alice.send_in_thread(r, roots[0], "While B is here"))
        bob.leave(r)
        wait_for(lambda: bob.user_id not in alice.members(r), what="A to see bob go")
        missed.extend(alice.send_in_thread(r, roots[1], f"Reply {n}") for n in range(2))
        missed.extend(alice.send_in_thread(r, roots[0], f"Reply {n}") for n in range(2))
        alice.send_message(r, "Where is bob?")
        order.extend(threads(alice, r))

    with old_world(
        tmp_path,
        "11",
        messages=2,
        b_database=None if postgres is None else postgres.create_database(),
        spoil=leave_and_come_back,
    ) as world:
        assert not set(missed) & accepted(world.b, world.room_id)
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {}), job
        assert set(missed) <= accepted(world.b, world.room_id)
        assert threads(world.bob, world.room_id) == order
        latest = "SELECT thread_id, latest_event_id, topological_ordering FROM threads"
        assert set(world.b.database.query(latest)) == set(world.a.database.query(latest))
        assert world.b.errors_in_log() == []


@pytest.mark.postgres
def test_texts_that_postgres_cannot_store(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Events that cannot be stored are left out: the rest arrives."""
    odd: list[str] = []
    postgres: Postgres = request.getfixturevalue("postgres")

    def react(world: OldWorld) -> None:
        r, alice, message = world.room_id, world.alice, world.messages[0]
        odd.append(alice.react(r, message, "a\0b"))
        long = "".join(random.Random(1).choices(string.ascii_letters, k=5000))
        relation = {"rel_type": long, "event_id": message}
        odd.append(alice.send_message(r, "Too long", **{"m.relates_to": relation}))
        odd.append(alice.send_message(r, "Too long", **{"org.matrix.labels": [long]}))
        world.alice.send_message(world.room_id, "NUL in a text \0 is none in a column")

    with old_world(
        tmp_path, "11", messages=6, b_database=postgres.create_database(), spoil=react
    ) as world:
        theirs = accepted(world.a, world.room_id)
        assert world.dry_run()["unreadable"] == len(odd)
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {"malformed": len(odd)}), job
        assert theirs - accepted(world.b, world.room_id) == set(odd)
        gaps = "SELECT event_id FROM event_backward_extremities WHERE room_id = ?"
        assert world.b.database.query(gaps, world.room_id) == []
        assert world.b.errors_in_log() == []


def by_carol(
    world: OldWorld,
    type_: str,
    body: str,
    *,
    depth: int | None = None,
    after: list[str] | None = None,
) -> str:
    """An event of C's on top of some events, by default of all that A has."""
    sees, peer = HostilePeer(world.a, world.room_id), HostilePeer(world.c, world.room_id)
    tips = sees.extremities()
    event: dict[str, Any] = {"type": type_, "sender": world.carol.user_id, "content": {}}
    event.update(room_id=world.room_id, prev_events=[], auth_events=[], depth=1, origin_server_ts=0)
    pdu, event_id = peer.forge(
        type_,
        world.carol.user_id,
        {"msgtype": "m.text", "body": body},
        prev_events=tips if after is None else after,
        auth_events=sees._auth_events(event),
        depth=sees._depth(tips) if depth is None else depth,
    )
    peer.send(world.a, pdu)
    world.a.wait_for_event(event_id)
    return event_id


def rejected_by_a(world: OldWorld, body: str) -> str:
    """An event that breaks no rule, and that A has rejected all the same."""
    world.a.sabotage(type="org.example.rejected", room_id=world.room_id)
    event_id = by_carol(world, "org.example.rejected", body)
    world.a.sabotage_off()
    assert event_id in world.a.rejected(world.room_id)
    return event_id


def test_the_room_goes_on_meanwhile(tmp_path: Path) -> None:
    """New messages and imported ones at the same time, and a depth that lies."""

    def spoil(world: OldWorld) -> None:
        by_carol(world, "m.room.message", "I came first", depth=3)
        live(world, 12)

    with old_world(tmp_path, "11", messages=24, spoil=spoil) as world:
        theirs, before = accepted(world.a, world.room_id), accepted(world.b, world.room_id)
        job = world.import_room(wait=False, events_per_second=60)
        sent = [world.bob.send_message(world.room_id, f"New {n}") for n in range(20)]
        done: dict[str, Any] = {}

        def over() -> bool:
            done.update(world.bob.repair_api("GET", "/imports/" + job["import_id"]))
            sent.append(world.bob.send_message(world.room_id, "Still here"))
            return done["status"] == "complete"

        wait_for(over, 60, interval=0.2)
        assert (done["imported"], done["skipped"]) == (len(theirs - before), {})
        assert signed(world.b, theirs) == signed(world.a, theirs)
        assert states(world.b, theirs) == states(world.a, theirs)
        seen = [e["event_id"] for e in world.bob.messages(world.room_id)]
        # The depths that follow the liar's begin anew, so old and new ones lie side by side.
        assert len(seen) == len(set(seen))
        assert [i for i in seen if i not in sent] == world.order
        assert [i for i in seen if i in sent] == sent[::-1]
        gaps = "SELECT * FROM event_backward_extremities WHERE room_id = ?"
        assert world.b.database.query(gaps, world.room_id) == []
        told = world.bob.sync(world.since)["rooms"]["join"][world.room_id]["timeline"]["events"]
        assert [e["event_id"] for e in told] == sent
        assert world.b.errors_in_log() == []


@pytest.mark.parametrize("version", ["1", "11"])
def test_what_users_said_who_had_it_erased(tmp_path: Path, version: str) -> None:
    """A gives it to nobody who came later, and that is what B's users are."""
    said: list[str] = []

    def spoil(world: OldWorld) -> None:
        erika = world.a.register("erika")
        erika.join(world.room_id)
        said.append(erika.send_message(world.room_id, "Erased"))
        said.append(erika.react(world.room_id, world.messages[0], "E"))
        world.alice.admin("POST", "/v1/deactivate" + quoted(erika.user_id), erase=True)
        sql = "SELECT 1 FROM erased_users WHERE user_id = ?"
        wait_for(lambda: world.a.database.query(sql, erika.user_id), what="erika to be erased")

    with old_world(tmp_path, version, messages=2, spoil=spoil) as world:
        theirs = accepted(world.a, world.room_id)
        assert world.dry_run()["erased"] == len(said)
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {})
        assert accepted(world.b, world.room_id) >= theirs
        for event_id in said:
            assert world.bob.event(world.room_id, event_id)["content"] == {}
        assert world.bob.search("Erased") == []
        assert world.dry_run()["to_import"] == 0
        assert states(world.b, theirs) == states(world.a, theirs)


def test_what_a_alone_has_in_the_end_is_told(tmp_path: Path) -> None:
    """It arrives as all else does: a dry run says that B had better received it."""
    with old_world(tmp_path, "11", messages=2) as world:
        assert world.dry_run()["newer"] == 0
        world.b.stop()
        world.a.start()
        tail = {world.alice.send_message(world.room_id, f"B is down {n}") for n in range(3)}
        world.a.stop()
        world.b.start()
        summary = world.dry_run()
        assert summary["newer"] == len(tail) < summary["to_import"]
        job = world.import_room()
        assert (job["status"], job["imported"]) == ("complete", summary["to_import"])
        assert accepted(world.b, world.room_id) >= tail
        assert untouched(world.b, world.bob, world.room_id) == world.facts


def test_swapped_and_strange_events(tmp_path: Path) -> None:
    """The JSON of one event under the id of another, and an event of another room."""
    strange: dict[str, str] = {}

    def spoil(world: OldWorld) -> None:
        other = world.alice.create_room("11")
        strange["room"], strange["event"] = other, world.alice.send_message(other, "Elsewhere")
        # On which Synapse's own rules stumble.
        tip = world.alice.send_message(world.room_id, "Before it")
        sees, alice = HostilePeer(world.a, world.room_id), world.alice.user_id
        pdu, strange["invite"] = sees.forge(
            "m.room.member",
            alice,
            {"membership": "invite", "third_party_invite": 5},
            state_key="@guest:example.org",
            prev_events=[tip],
            auth_events=json.loads(
                world.a.database.value("SELECT json FROM event_json WHERE event_id = ?", tip)
            )["auth_events"],
        )
        a = world.a
        write_like(world, tip, a, "event_to_state_groups", event_id=strange["invite"])
        write_like(world, tip, a, "event_json", event_id=strange["invite"], json=json.dumps(pdu))
        write_like(
            world,
            tip,
            a,
            "events",
            event_id=strange["invite"],
            stream_ordering=-7,
            type="m.room.member",
            topological_ordering=pdu["depth"],
            depth=pdu["depth"],
        )

    with old_world(tmp_path, "11", messages=12, spoil=spoil) as world:
        a = world.a.database
        one, two = world.messages[2], world.messages[6]
        texts = {
            i: a.value("SELECT json FROM event_json WHERE event_id = ?", i) for i in (one, two)
        }
        a.execute("UPDATE event_json SET json = ? WHERE event_id = ?", texts[two], one)
        a.execute("UPDATE event_json SET json = ? WHERE event_id = ?", texts[one], two)
        for table in ("events", "event_json"):
            a.execute(
                f"UPDATE {table} SET room_id = ? WHERE event_id = ?",
                world.room_id,
                strange["event"],
            )
        theirs = accepted(world.a, world.room_id)
        summary = world.dry_run()
        assert summary["bad_hash"] == 2
        job = world.import_room()
        assert (job["status"], job["skipped"]) == (
            "complete",
            {"bad_event_id": 2, "other_room": 1, "auth_events": 1},
        ), job
        assert theirs - accepted(world.b, world.room_id) == {
            *(one, two, strange["event"], strange["invite"])
        }
        assert job["imported"] == summary["to_import"]
        assert untouched(world.b, world.bob, world.room_id) == world.facts
        assert world.b.errors_in_log() == []


def call_herself_two_things(world: OldWorld) -> list[tuple[str, str]]:
    """Lets carol change her name to two names at once, and say something under each of them."""
    sees, peer = HostilePeer(world.a, world.room_id), HostilePeer(world.c, world.room_id)
    carol, tips = world.carol.user_id, sees.extremities()
    depth = sees._depth(tips)
    before = world.alice.state(world.room_id)["m.room.member", carol]["event_id"]
    event: dict[str, Any] = {"type": "m.room.member", "sender": carol, "room_id": world.room_id}
    event.update(prev_events=[], auth_events=[], depth=1, origin_server_ts=0)
    event.update(content={"membership": "join"}, state_key=carol)
    by_member = sees._auth_events(event)
    del event["state_key"]
    event.update(type="m.room.message", content={})
    by_message = sees._auth_events(event)
    made = []
    for name in ("One", "Two"):
        member, changed = peer.forge(
            "m.room.member",
            carol,
            {"membership": "join", "displayname": name},
            state_key=carol,
            prev_events=tips,
            auth_events=by_member,
            depth=depth,
        )
        message, said = peer.forge(
            "m.room.message",
            carol,
            {"msgtype": "m.text", "body": f"I am {name}"},
            prev_events=[changed],
            auth_events=[changed if i == before else i for i in by_message],
            depth=depth + 1,
        )
        assert peer.send(world.a, member, message) == {changed: {}, said: {}}
        world.a.wait_for_event(said)
        made.append((changed, said))
    world.alice.send_message(world.room_id, "Which is it?")
    return made


def with_wrong_signature(text: str) -> str:
    pdu = json.loads(text)
    ((server, signatures),) = pdu["signatures"].items()
    ((key_id, signature),) = signatures.items()
    first = "B" if signature[0] == "A" else "A"
    return json.dumps({**pdu, "signatures": {server: {key_id: first + signature[1:]}}})


def test_signatures_that_are_none(tmp_path: Path) -> None:
    """One that is wrong, one by a key that nobody has, and what cites an event with such a one."""
    names: list[tuple[str, str]] = []
    with old_world(
        tmp_path,
        "11",
        messages=6,
        spoil=lambda world: names.extend(call_herself_two_things(world)),
    ) as world:
        # Of the name that did not last, B was told nothing when it joined.
        known = {i for (i,) in world.b.database.query("SELECT event_id FROM events")}
        ((changed, said),) = [pair for pair in names if pair[0] not in known]
        tamper(world, changed, with_wrong_signature)
        odd = world.messages[2]
        tamper(world, odd, lambda text: text.replace('"ed25519:', '"ed25519:nobodys_'))
        theirs = accepted(world.a, world.room_id)
        lacking = len(theirs - accepted(world.b, world.room_id))
        trusting = world.dry_run()
        assert (trusting["to_import"], trusting["bad_signature"]) == (lacking, 0)
        summary = world.dry_run(verify_signatures=True)
        assert (summary["bad_signature"], summary["fails_auth"], summary["unreadable"]) == (2, 1, 0)
        job = world.import_room(verify_signatures=True)
        assert (job["status"], job["skipped"]) == (
            "complete",
            {"bad_signature": 1, "unknown_key": 1, "missing_auth_events": 1},
        ), job
        assert job["imported"] == summary["to_import"] == lacking - 3
        assert theirs - accepted(world.b, world.room_id) == {changed, said, odd}
        assert world.b.errors_in_log() == []


def test_events_in_a_circle(tmp_path: Path) -> None:
    """In room version 1 ids are no hashes, so a database can say that an event follows itself."""
    with old_world(tmp_path, "1", messages=12) as world:
        a = world.a.database
        early, late = world.messages[2], world.messages[8]
        pdu = json.loads(a.value("SELECT json FROM event_json WHERE event_id = ?", early))
        pdu["prev_events"] = [[late, {"sha256": "AAAA"}]]
        a.execute("UPDATE event_json SET json = ? WHERE event_id = ?", json.dumps(pdu), early)
        theirs = accepted(world.a, world.room_id)
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {}), job
        # Its content is not what was hashed any more.
        assert world.bob.event(world.room_id, early)["content"] == {}
        assert theirs <= accepted(world.b, world.room_id)
        assert untouched(world.b, world.bob, world.room_id) == world.facts
        # With signatures, it would not have come in.
        assert world.b.errors_in_log() == []


@pytest.mark.slow
def test_invites_that_b_had_received(tmp_path: Path) -> None:
    """One that was refused, one that was taken, and one that is not answered yet."""
    invites: dict[str, str] = {}

    def invite(world: OldWorld, user: Client) -> str:
        world.alice.invite(world.room_id, user.user_id)
        event_id = world.alice.state(world.room_id)["m.room.member", user.user_id]["event_id"]
        here = "SELECT 1 FROM events WHERE event_id = ?"
        wait_for(lambda: world.b.database.query(here, event_id), what="B to get the invite")
        return str(event_id)

    def spoil(world: OldWorld) -> None:
        bob, bert = world.bob, world.b.register("bert")
        invites["refused"] = invite(world, bob)
        bob.leave(world.room_id)
        left = "SELECT 1 FROM room_memberships WHERE user_id = ? AND membership = 'leave'"
        wait_for(lambda: world.a.database.query(left, bob.user_id), what="A to see it refused")
        invites["taken"] = invite(world, bob)
        invites["open"] = invite(world, bert)
        world.alice.send_message(world.room_id, "Nobody here yet?")
        users.append(bert)

    users: list[Client] = []
    with old_world(tmp_path, "11", messages=2, spoil=spoil) as world:
        r, query, bert = world.room_id, world.b.database.query, users[0]
        shown = bert.sync()["rooms"]["invite"][r]
        kept = "SELECT event_id, stream_ordering FROM events WHERE room_id = ? AND outlier"
        orderings = {i: o for i, o in query(kept, r) if i in invites.values()}
        assert orderings.keys() == set(invites.values())
        theirs = accepted(world.a, r)
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {}), job
        assert theirs <= accepted(world.b, r)
        assert states(world.b, theirs) == states(world.a, theirs)
        assert signed(world.b, theirs) == signed(world.a, theirs)
        sql = "SELECT event_id, json, internal_metadata FROM event_json"
        said = {
            server: {
                i: (json.loads(text).get("unsigned", {}).get("replaces_state"), metadata)
                for i, text, metadata in server.database.query(sql)
                if i in theirs
            }
            for server in (world.a, world.b)
        }
        replaced = {i: before for i, (before, _) in said[world.a].items()}
        assert {i: before for i, (before, _) in said[world.b].items()} == replaced
        assert replaced[invites["taken"]] is not None is replaced[invites["refused"]]
        odd = ("outlier", "out_of_band_membership")
        assert not [i for i, (_, what) in said[world.b].items() if any(o in what for o in odd)]
        # Clients know them by their positions: these stay, and so does what is shown of the invite.
        assert orderings.items() <= {*query("SELECT event_id, stream_ordering FROM events")}
        assert bert.sync(timeout_ms=1)["rooms"]["invite"][r] == shown
        (taken,) = [e for e in world.bob.messages(r) if e["event_id"] == invites["taken"]]
        assert taken["unsigned"]["prev_content"]["membership"] == "leave"
        assert untouched(world.b, world.bob, r) == world.facts
        journalled = "SELECT event_id, original_rows FROM rejection_repair_journal WHERE action = ?"
        was = {i: json.loads(rows) for i, rows in query(journalled, "import")}
        old = json.loads(was[invites["open"]]["event_json"][0]["internal_metadata"])
        assert old["out_of_band_membership"] is True
        assert world.b.errors_in_log() == []
