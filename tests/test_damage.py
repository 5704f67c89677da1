"""Databases that somebody, or something, has damaged: `health` finds it, and `repair` mends it.

Every kind of damage has a room of its own. They are all done at once, while the server is stopped:
what it has in its caches would hide them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.harness import compare, flavours
from tests.harness.client import quoted
from tests.harness.compare import differences, search
from tests.harness.database import PostgresDatabase
from tests.harness.federation import Pair, Room
from tests.harness.hostile import grab
from tests.harness.incident import Incident, make_incident, promote
from tests.harness.losing import everywhere, lose, lose_message, lose_state
from tests.harness.repairing import diagnosis, dry_run, finished, health, repair

SQLITE = pytest.mark.parametrize("pair", [flavours.NEWEST], indirect=True)
POSTGRES = pytest.mark.parametrize("pair", [flavours.SLOW_POSTGRES], indirect=True)
BOTH = pytest.mark.parametrize("pair", [flavours.NEWEST, flavours.SLOW_POSTGRES], indirect=True)

Statement = tuple[Any, ...]


@dataclass
class Case:
    """A room that is damaged in one way.

    Attributes:
        room: The room.
        statements: The damage: SQL and its parameters.
        found: What `health` finds at least, and how often; `None` for however often.
        hostile: What is to be rejected in the end.
        known: Ids that its test needs, by what they are.
        incident: The incident, where there was a whole one.
    """

    room: Room
    statements: list[Statement]
    found: Mapping[str, int | None]
    hostile: Collection[str] = ()
    known: dict[str, str] = field(default_factory=dict)
    incident: Incident | None = None


CASES: dict[str, Callable[[Room], Case]] = {}


def case(make: Callable[[Room], Case]) -> Callable[[Room], Case]:
    CASES[make.__name__] = make
    return make


OLD_ENTRY = (
    "UPDATE current_state_events SET event_id = ?, event_stream_ordering = NULL WHERE event_id = ?"
)
UNMARK = "UPDATE events SET rejection_reason = NULL WHERE room_id = ?"
UNREJECT = (
    "DELETE FROM rejections WHERE event_id IN (SELECT event_id FROM events WHERE room_id = ?)"
)


@case
def the_known_cure(room: Room) -> Case:
    incident = make_incident(room)
    hostile = grab(room)
    r = room.room_id
    return Case(
        room,
        [(UNMARK, r), (UNREJECT, r)],
        {
            "missing_edges": len(incident.lost) + 1,
            "missing_membership": 1,
            "missing_search": None,
        },
        hostile=[hostile],
        incident=incident,
    )


@case
def half_the_cure_rejections_alone(room: Room) -> Case:
    incident = make_incident(room, messages=1)
    return Case(
        room, [(UNREJECT, room.room_id)], {"missing_edges": len(incident.lost)}, incident=incident
    )


@case
def half_the_cure_marks_alone(room: Room) -> Case:
    # Readers go by the table `rejections`: nothing has been cured.
    incident = make_incident(room, messages=1)
    return Case(
        room, [(UNMARK, room.room_id)], {"wrongly_rejected": len(incident.lost)}, incident=incident
    )


@case
def the_cure_of_all_but_the_root(room: Room) -> Case:
    incident = make_incident(room, messages=1)
    r = room.room_id
    return Case(
        room,
        [
            (f"{UNMARK} AND event_id <> ?", r, incident.x),
            (f"{UNREJECT} AND event_id <> ?", r, incident.x),
        ],
        {"wrongly_rejected": 1, "missing_edges": len(incident.lost) - 1},
        incident=incident,
    )


@case
def the_cure_of_the_root_alone(room: Room) -> Case:
    incident = make_incident(room, messages=1)
    r = room.room_id
    return Case(
        room,
        [
            (f"{UNMARK} AND event_id = ?", r, incident.x),
            (f"{UNREJECT} AND event_id = ?", r, incident.x),
        ],
        {"wrongly_rejected": len(incident.lost) - 1, "missing_edges": 1},
        incident=incident,
    )


@case
def the_cure_of_state_that_nobody_cites(room: Room) -> Case:
    r = room.room_id
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    everywhere(room, *(room.alice.send_message(r, f"After it, {n}") for n in range(3)))
    return Case(room, [(UNMARK, r), (UNREJECT, r)], {"missing_edges": 1}, known={"topic": topic})


@case
def search_rows(room: Room) -> Case:
    message = room.alice.send_message(room.room_id, "Somewhere over the rainbow")
    topic = room.alice.send_state(room.room_id, "m.room.topic", {"topic": "A rainbow"})
    whole = room.alice.send_message(room.room_id, "Whole rainbow")
    everywhere(room, message, topic, whole)
    return Case(
        room,
        [
            ("DELETE FROM event_search WHERE event_id = ?", message),
            ("DELETE FROM event_search WHERE event_id = ?", topic),
        ],
        {"missing_search": 2},
    )


@case
def edges_of_messages(room: Room) -> Case:
    first, second, third = (room.alice.send_message(room.room_id, f"No {n}") for n in range(3))
    everywhere(room, first, second, third)
    return Case(
        room,
        [
            ("DELETE FROM event_edges WHERE event_id = ?", first),
            ("DELETE FROM event_edges WHERE event_id = ?", third),
        ],
        {"missing_edges": 2},
    )


@case
def edges_of_state(room: Room) -> Case:
    x = promote(room, room.carol, 50)
    message = room.alice.send_message(room.room_id, "After it")
    everywhere(room, x, message)
    return Case(room, [("DELETE FROM event_edges WHERE event_id = ?", x)], {"missing_edges": 1})


@case
def state_rows(room: Room) -> Case:
    topic = room.alice.send_state(room.room_id, "m.room.topic", {"topic": "New"})
    message = room.alice.send_message(room.room_id, "After it")
    everywhere(room, topic, message)
    return Case(
        room, [("DELETE FROM state_events WHERE event_id = ?", topic)], {"missing_state_row": 1}
    )


@case
def membership_rows(room: Room) -> Case:
    guest = room.a.register(f"guest-{room.alice.user_id[1:].split(':')[0]}")
    guest.join(room.room_id)
    message = guest.send_message(room.room_id, "Hello")
    everywhere(room, message)
    # Of its own users a server keeps more.
    state = compare.current_state(room.a, room.room_id)
    joins = [state["m.room.member", user.user_id] for user in (guest, room.carol)]
    return Case(
        room,
        [("DELETE FROM room_memberships WHERE event_id = ?", join) for join in joins],
        {"missing_membership": 2},
    )


@case
def memberships_of_the_current_state(room: Room) -> Case:
    # What a state that another server gave leaves of a member event whose row is lacking, and
    # what is left if only that row is mended.
    names = ("guest-one", "guest-two")
    guests = [room.a.register(f"{n}-{room.alice.user_id[1:].split(':')[0]}") for n in names]
    for guest in guests:
        guest.join(room.room_id)
    everywhere(room, room.alice.send_message(room.room_id, "Hello"))
    state = compare.current_state(room.a, room.room_id)
    one, two = (state["m.room.member", guest.user_id] for guest in guests)
    unknown = "UPDATE current_state_events SET membership = NULL WHERE event_id = ?"
    return Case(
        room,
        [("DELETE FROM room_memberships WHERE event_id = ?", one), (unknown, one), (unknown, two)],
        {"missing_membership": 2},
    )


@case
def state_groups(room: Room) -> Case:
    message = room.alice.send_message(room.room_id, "Without a state")
    topic = room.alice.send_state(room.room_id, "m.room.topic", {"topic": "Without one, too"})
    last = room.alice.send_message(room.room_id, "With one")
    everywhere(room, message, topic, last)
    return Case(
        room,
        [
            ("DELETE FROM event_to_state_groups WHERE event_id = ?", message),
            ("DELETE FROM event_to_state_groups WHERE event_id = ?", topic),
        ],
        {"missing_state_group": 2},
    )


@case
def a_rejected_extremity(room: Room) -> Case:
    hostile = grab(room)
    everywhere(room, room.alice.send_message(room.room_id, "After it"))
    return Case(
        room,
        [
            (
                "INSERT INTO event_forward_extremities (event_id, room_id) VALUES (?, ?)",
                hostile,
                room.room_id,
            )
        ],
        {"bad_extremities": 1},
        hostile=[hostile],
    )


@case
def no_extremity_but_a_rejected_one(room: Room) -> Case:
    hostile = grab(room)
    everywhere(room, room.alice.send_message(room.room_id, "After it"))
    return Case(
        room,
        [
            (
                "UPDATE event_forward_extremities SET event_id = ? WHERE room_id = ?",
                hostile,
                room.room_id,
            )
        ],
        {"bad_extremities": 1},
        hostile=[hostile],
    )


@case
def an_extremity_that_is_followed(room: Room) -> Case:
    first = room.alice.send_message(room.room_id, "First")
    second = room.alice.send_message(room.room_id, "Second")
    everywhere(room, first, second)
    return Case(
        room,
        [
            (
                "INSERT INTO event_forward_extremities (event_id, room_id) VALUES (?, ?)",
                first,
                room.room_id,
            )
        ],
        {"bad_extremities": 1},
    )


@case
def an_entry_of_the_state_that_is_gone(room: Room) -> Case:
    everywhere(room, room.alice.send_state(room.room_id, "m.room.topic", {"topic": "New"}))
    return Case(
        room,
        [
            (
                "DELETE FROM current_state_events WHERE room_id = ? AND type = 'm.room.topic'",
                room.room_id,
            )
        ],
        {"state_mismatch": 1},
    )


@case
def an_old_entry_of_the_state(room: Room) -> Case:
    old = compare.current_state(room.b, room.room_id)[("m.room.name", "")]
    name = room.alice.send_state(room.room_id, "m.room.name", {"name": "New"})
    everywhere(room, name)
    return Case(
        room,
        [(OLD_ENTRY, old, name)],
        {"state_mismatch": 1},
    )


@case
def a_rejected_event_in_the_state(room: Room) -> Case:
    hostile = grab(room)
    topic = compare.current_state(room.b, room.room_id)[("m.room.topic", "")]
    return Case(
        room,
        [(OLD_ENTRY, hostile, topic)],
        {"bad_current_state": 1, "state_mismatch": 1},
        hostile=[hostile],
    )


@case
def a_rejected_outlier(room: Room) -> Case:
    # Part of the state that B was given when it joined: an outlier, with no state before it.
    state = compare.current_state(room.b, room.room_id)
    outlier = state[("m.room.history_visibility", "")]
    assert room.b.database.value("SELECT outlier FROM events WHERE event_id = ?", outlier)
    everywhere(room, room.alice.send_message(room.room_id, "After it"))
    return Case(
        room,
        [
            (
                "INSERT INTO rejections (event_id, reason, last_check) VALUES (?, ?, ?)",
                outlier,
                "auth_error",
                "1",
            ),
            ("UPDATE events SET rejection_reason = 'auth_error' WHERE event_id = ?", outlier),
        ],
        {"wrongly_rejected": 1, "bad_current_state": 1},
        known={"outlier": outlier},
    )


@case
def states_that_were_not_recomputed(room: Room) -> Case:
    # As if the topic had been repaired, and what was accepted after it been forgotten.
    r = room.room_id
    lose_state(room, "m.room.topic", {"topic": "Lost"})
    after = [room.alice.send_message(r, f"After it, {n}") for n in range(3)]
    everywhere(room, *after)
    sql = "SELECT event_id, state_group FROM event_to_state_groups WHERE event_id IN (?, ?, ?)"
    groups = room.b.database.query(sql, *after)
    repair(room.bob, r)
    assert sorted(room.b.database.query(sql, *after)) != sorted(groups)
    return Case(
        room,
        [
            ("UPDATE event_to_state_groups SET state_group = ? WHERE event_id = ?", group, event_id)
            for event_id, group in groups
        ],
        {"stale_state": None},
    )


@case
def states_that_were_not_recomputed_at_a_merge(room: Room) -> Case:
    r = room.room_id
    lose_state(room, "m.room.topic", {"topic": "Lost"})
    own = room.bob.send_message(r, "On a branch of its own")
    room.a.wait_for_event(own)
    merge = room.alice.send_message(r, "Both together")
    everywhere(room, own, merge)
    sql = "SELECT state_group FROM event_to_state_groups WHERE event_id = ?"
    group = room.b.database.value(sql, merge)
    repair(room.bob, r)
    assert room.b.database.value(sql, merge) != group
    return Case(
        room,
        [("UPDATE event_to_state_groups SET state_group = ? WHERE event_id = ?", group, merge)],
        {"stale_state": None},
    )


@case
def rejections_of_nothing(room: Room) -> Case:
    # Rows that belong to no event, as a purge can leave them.
    incident = make_incident(room, messages=1)
    return Case(
        room,
        [
            (
                "INSERT INTO rejections (event_id, reason, last_check) VALUES (?, ?, ?)",
                f"$nowhere{room.room_id}",
                "auth_error",
                "1",
            )
        ],
        {"wrongly_rejected": len(incident.lost)},
        incident=incident,
    )


ON_POSTGRES = [
    make.__name__
    for make in (
        the_known_cure,
        edges_of_messages,
        state_rows,
        membership_rows,
        memberships_of_the_current_state,
        state_groups,
        states_that_were_not_recomputed,
        states_that_were_not_recomputed_at_a_merge,
    )
]
"""Enough for each statement that finds or mends damage to find or mend some: rooms take time."""


@pytest.fixture(scope="module")
def damaged(pair: Pair) -> dict[str, Case]:
    """All the rooms, damaged."""
    versions = ("10", "12")
    names = ON_POSTGRES if isinstance(pair.b.database, PostgresDatabase) else CASES
    cases = {
        name: CASES[name](pair.room(versions[number % 2])) for number, name in enumerate(names)
    }
    assert pair.a.errors_in_log() == pair.b.errors_in_log() == []
    for case in cases.values():
        before = differences(case.room, rejected=case.hostile)
        assert not before or case.incident or "topic" in case.known, before
    pair.b.stop()
    for case in cases.values():
        for sql, *parameters in case.statements:
            assert pair.b.database.execute(sql, *parameters) > 0, sql
    pair.b.start()
    return cases


@SQLITE
@pytest.mark.parametrize("name", CASES)
def test_damage_is_found_and_mended(damaged: dict[str, Case], name: str) -> None:
    found_and_mended(damaged[name])


@POSTGRES
@pytest.mark.parametrize("name", ON_POSTGRES)
def test_damage_is_found_and_mended_on_postgres(damaged: dict[str, Case], name: str) -> None:
    found_and_mended(damaged[name])


def found_and_mended(damage: Case) -> None:
    room, r, bob = damage.room, damage.room.room_id, damage.room.bob
    found = health(bob, r)
    for check, count in damage.found.items():
        assert found.get(check, 0) > 0, (check, found)
        assert count is None or found[check] == count, (check, found)
    problems = bob.repair_api("GET", f"/rooms{quoted(r)}/health")["problems"]
    assert all(p["repairable"] for p in problems if p["check"] != "rejected")

    before = compare.database_facets(room, room.b)
    plan = dry_run(bob, r)
    assert compare.database_facets(room, room.b) == before
    done = repair(bob, r, plan=plan["fingerprint"])
    assert (done["accepted"], done["rejected"]) == (
        plan["summary"]["accept"],
        plan["summary"]["reject"],
    )
    assert done["state_changes"] == plan["summary"]["state_changes"]

    assert room.b.rejected(r) == {*damage.hostile}
    assert differences(room, rejected=damage.hostile) == {}
    assert health(bob, r) == ({"rejected": len(damage.hostile)} if damage.hostile else {})
    if damage.incident:
        word = damage.incident.WORD
        assert search(bob, r, word) == search(room.alice, r, word) != set()

    # Nothing is left to do, ...
    again = dry_run(bob, r)
    assert (again["summary"]["accept"], again["summary"]["restate"]) == (0, 0)
    assert again["summary"]["state_changes"] == []
    # ... and the room goes on.
    everywhere(room, room.alice.send_message(r, "Next"))
    everywhere(room, bob.send_message(r, "And next"))
    assert differences(room, rejected=damage.hostile) == {}


@BOTH
def test_no_error_is_in_the_log(pair: Pair) -> None:
    assert pair.b.errors_in_log() == []


@SQLITE
def test_after_the_cure_the_room_went_on(pair: Pair) -> None:
    # What makes the cure worse than it looks: the next event that needs what was lost starts a
    # new cascade. Both belong to one repair.
    room = pair.room("10")
    r = room.room_id
    incident = make_incident(room, messages=1)
    pair.b.stop()
    pair.b.database.execute(UNMARK, r)
    pair.b.database.execute(UNREJECT, r)
    pair.b.start()
    again = incident.late.send_message(r, "I am still here")
    own = room.bob.send_message(r, "So it is cured?")
    everywhere(room, again, own)
    assert pair.b.rejected(r), "the cure was to have a relapse"
    repair(room.bob, r)
    assert pair.b.rejected(r) == set()
    assert differences(room) == {}
    assert health(room.bob, r) == {}
    assert pair.b.errors_in_log() == []


# What nothing overrides.


@dataclass
class Tampered:
    """A cascade in which some events are not what alice's server signed."""

    room: Room
    bad: dict[str, str]
    """The events, by what was done to them."""
    sound: set[str]


def tamper(pair: Pair, **changes: Callable[[dict[str, Any]], None]) -> Tampered:
    """Makes a cascade, and changes the JSON of some of its events."""
    room = pair.room("10")
    r = room.room_id
    x = lose(room, lambda: promote(room, room.carol, 50), type="m.room.power_levels")
    message = room.alice.send_message(r, "Sound")
    bad = {name: room.alice.send_message(r, f"Message {name}") for name in changes}
    last = room.alice.send_message(r, "Sound as well")
    everywhere(room, last, *bad.values())
    assert pair.b.rejected(r) == {x, message, last, *bad.values()}
    pair.b.stop()
    for name, change in changes.items():
        sql = "SELECT json FROM event_json WHERE event_id = ?"
        event = json.loads(pair.b.database.value(sql, bad[name]))
        change(event)
        sql = "UPDATE event_json SET json = ? WHERE event_id = ?"
        assert pair.b.database.execute(sql, json.dumps(event), bad[name]) == 1
    pair.b.start()
    return Tampered(room, bad, {x, message, last})


def break_signature(event: dict[str, Any]) -> None:
    (signatures,) = event["signatures"].values()
    ((key, value),) = signatures.items()
    signatures[key] = value[::-1]


@SQLITE
def test_a_bad_hash_or_signature_cannot_be_forced(pair: Pair) -> None:
    tampered = tamper(
        pair,
        body=lambda event: event["content"].update(body="Something else"),
        signature=break_signature,
        unsigned=lambda event: event.update(signatures={}),
        another=lambda event: event.update(signatures={"elsewhere": {"ed25519:1": "c2ln"}}),
    )
    room, r, bob = tampered.room, tampered.room.room_id, tampered.room.bob
    force = [*tampered.bad.values()]

    plan = dry_run(bob, r, force=force)
    verdicts = {e["event_id"]: e for e in plan["events"]}
    found = {name: verdicts[event_id] for name, event_id in tampered.bad.items()}
    assert {name: verdict["check"] for name, verdict in found.items()} == {
        "body": "hash",
        "signature": "signature",
        "unsigned": "signature",
        "another": "signature",
    }
    assert {verdict["verdict"] for verdict in found.values()} == {"reject"}
    assert all(verdict["error"] for verdict in found.values())

    done = repair(bob, r, force=force)
    assert (done["accepted"], done["rejected"]) == (len(tampered.sound), len(force))
    assert room.b.rejected(r) == {*force}
    shown = {event["event_id"] for event in bob.messages(r)}
    assert tampered.sound <= shown
    assert not shown & {*force}
    assert repair(bob, r, force=force)["accepted"] == 0
    assert health(bob, r) == {"rejected": len(force)}
    assert pair.b.errors_in_log() == []


@SQLITE
def test_what_cannot_be_judged_is_left_as_the_known_cure_left_it(pair: Pair) -> None:
    def by_a_lost_key(event: dict[str, Any]) -> None:
        (signatures,) = event["signatures"].values()
        signatures["ed25519:lost"] = signatures.popitem()[1]

    tampered = tamper(
        pair,
        lost_key=by_a_lost_key,
        signature=break_signature,
        depth=lambda event: event.update(depth=event["depth"] + 1),
    )
    room, r, bob = tampered.room, tampered.room.room_id, tampered.room.bob
    pair.b.stop()
    cured = [*tampered.bad.values()]
    for event_id in cured:
        pair.b.database.execute(
            "UPDATE events SET rejection_reason = NULL WHERE event_id = ?", event_id
        )
        pair.b.database.execute("DELETE FROM rejections WHERE event_id = ?", event_id)
    pair.b.start()
    verdicts = {e["event_id"]: e["verdict"] for e in dry_run(bob, r)["events"]}
    assert [verdicts[i] for i in cured] == ["unknown", "reject", "unknown"]
    done = repair(bob, r)
    assert (done["accepted"], done["rejected"]) == (len(tampered.sound), 3)
    assert room.b.rejected(r) == {tampered.bad["signature"]}
    assert health(bob, r) == {"missing_edges": 2, "missing_search": 2, "rejected": 1}
    again = repair(bob, r)
    assert (again["accepted"], again["rejected"]) == (0, 3)
    assert room.b.rejected(r) == {tampered.bad["signature"]}


UNREADABLE = {
    "cut": ("json", "{"),
    "list": ("json", "[]"),
    "marks_cut": ("internal_metadata", "{,}"),
    "marks_null": ("internal_metadata", "null"),
    "marks_list": ("internal_metadata", "[]"),
}
"""What no object can be read from: each in its column."""


@SQLITE
def test_damaged_rows_fail_no_call(pair: Pair) -> None:
    # What Synapse itself cannot read any more (and says so in its log).
    tampered = tamper(
        pair,
        depth=lambda event: event.update(depth=event["depth"] + 1),
        garbage=lambda event: event.update(prev_events=7, auth_events=[[]]),
        empty=lambda event: event.clear(),
        gone=lambda event: None,
        **dict.fromkeys(
            ["cut", "list", "marks_cut", "marks_null", "marks_list"], lambda event: None
        ),
    )
    room, r, bob = tampered.room, tampered.room.room_id, tampered.room.bob
    pair.b.stop()
    pair.b.database.execute("DELETE FROM event_json WHERE event_id = ?", tampered.bad["gone"])
    for name, (column, text) in UNREADABLE.items():
        sql = f"UPDATE event_json SET {column} = ? WHERE event_id = ?"
        assert pair.b.database.execute(sql, text, tampered.bad[name]) == 1
    pair.b.start()
    rejected = room.b.rejected(r)
    assert rejected == {*tampered.bad.values(), *tampered.sound}
    # What Synapse itself has noted of an event is no part of it.
    for name in ("marks_cut", "marks_null", "marks_list"):
        tampered.sound.add(tampered.bad.pop(name))

    listed = bob.repair_api("GET", f"/rooms{quoted(r)}/rejections")
    assert {row["event_id"] for row in listed["rejections"]} == rejected
    assert listed["total"] == diagnosis(bob, r)["rejected_events"] == len(rejected)
    health(bob, r)
    force = [*tampered.bad.values()]
    plan = dry_run(bob, r, force=force)
    verdicts = {e["event_id"]: e for e in plan["events"]}
    for name, event_id in tampered.bad.items():
        assert verdicts[event_id]["verdict"] in ("reject", "unknown"), name
        assert verdicts[event_id]["error"], name
    for name in ("gone", "cut", "list"):
        assert verdicts[tampered.bad[name]]["verdict"] == "unknown", name
    done = repair(bob, r, force=force)
    assert done["accepted"] == len(tampered.sound)
    assert room.b.rejected(r) == {*force}
    assert repair(bob, r)["accepted"] == 0


@SQLITE
def test_an_accepted_event_that_cannot_be_read_is_left_as_it_is(pair: Pair) -> None:
    room = pair.room("10")
    r, bob = room.room_id, room.bob
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    broken = room.alice.send_message(r, "Broken")
    last = room.alice.send_message(r, "Last")
    everywhere(room, broken, last)
    pair.b.stop()
    sql = "UPDATE event_json SET json = ?, internal_metadata = ? WHERE event_id = ?"
    pair.b.database.execute(sql, "[]", "{,}", broken)
    pair.b.start()
    state = compare.states_after(room.b, r)
    health(bob, r)
    assert dry_run(bob, r)["summary"]["restate"] == 0
    assert repair(bob, r)["accepted"] == 1
    assert room.b.rejected(r) == set()
    assert compare.states_after(room.b, r)[topic] == {
        **state[topic],
        ("m.room.topic", ""): topic,
    }
    assert compare.states_after(room.b, r)[broken] == state[broken]
    assert repair(bob, r)["total"] == 0


@SQLITE
def test_a_lost_message_stays_lost_where_its_words_are_not_known(pair: Pair) -> None:
    # The database was restored with the text redacted by hand: as good as a redacted copy.
    room = pair.room("10")
    r = room.room_id
    message = lose_message(room, "Private")
    pair.b.stop()
    sql = "SELECT json FROM event_json WHERE event_id = ?"
    event = json.loads(pair.b.database.value(sql, message))
    event["content"] = {}
    pair.b.database.execute(
        "UPDATE event_json SET json = ? WHERE event_id = ?", json.dumps(event), message
    )
    pair.b.start()
    repair(room.bob, r)
    assert room.b.rejected(r) == set()
    assert room.bob.event(r, message)["content"] == {}


@BOTH
def test_what_users_made_of_damaged_events_is_kept(pair: Pair) -> None:
    room = pair.room("10")
    r, carol, database = room.room_id, room.carol, room.b.database
    gone = room.b.register(f"gone{carol.user_id[6:].partition(':')[0]}")
    gone.join(r)
    gone.leave(r)
    gone.call("POST", f"/_matrix/client/v3/rooms{quoted(r)}/forget", {})
    thread = room.alice.send_message(r, "A thread begins")
    room.b.wait_for_event(thread)
    mine = carol.send_message(r, "She takes part")
    database.execute(
        "INSERT INTO thread_subscriptions"
        " (stream_id, instance_name, room_id, event_id, user_id, subscribed, automatic)"
        " VALUES (?, 'master', ?, ?, ?, TRUE, FALSE)",
        1 + (database.value("SELECT MAX(stream_id) FROM thread_subscriptions") or 0),
        r,
        thread,
        carol.user_id,
    )
    memberships = "SELECT event_id, forgotten, participant FROM room_memberships WHERE user_id = ?"
    of_users = {
        "who has forgotten": (f"{memberships} AND membership = 'leave'", gone.user_id),
        "who takes part": (f"{memberships} AND room_id = ?", carol.user_id, r),
        "who follows": ("SELECT * FROM thread_subscriptions WHERE event_id = ?", thread),
        "who has sent": ("SELECT * FROM event_txn_id_device_id WHERE event_id = ?", mine),
    }

    def rows() -> dict[str, list[Any]]:
        return {name: database.query(*query) for name, query in of_users.items()}

    before = rows()
    assert before["who has forgotten"][0][1] and before["who takes part"][0][2]
    assert all(len(found) == 1 for found in before.values()), before
    damaged = [thread, mine, *(before[name][0][0] for name in [*before][:2])]
    for event_id in damaged:
        assert database.execute("DELETE FROM event_edges WHERE event_id = ?", event_id)
    assert health(room.bob, r) == {"missing_edges": len(damaged)}
    repaired = repair(room.bob, r)
    assert repaired["accepted"] == len(damaged)
    assert rows() == before
    undo = f"/repairs{quoted(repaired['repair_id'])}/undo"
    job = room.bob.repair_api("POST", undo, {"dry_run": False})
    assert finished(room.bob, job["repair_id"])["status"] == "complete"
    assert health(room.bob, r)["missing_edges"] == len(damaged)
    assert rows() == before
