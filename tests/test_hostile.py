"""What a hostile server sent during an incident stays out of the room when the rest is let in.

Everything forged here is signed with A's real key and sent to both servers. A never erred, so its
verdict is the right one, and B's is to be the same after the repair.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.harness import compare, flavours
from tests.harness.client import JsonDict, quoted
from tests.harness.database import PostgresDatabase
from tests.harness.federation import Pair, Room
from tests.harness.flavours import Flavour
from tests.harness.forging import POWER, Forger
from tests.harness.hostile import HostilePeer
from tests.harness.incident import promote
from tests.harness.repairing import diagnosis, dry_run, finished, health, repair, start
from tests.harness.waiting import wait_for

TEXT = {"msgtype": "m.text", "body": "Forged"}

_SOME = pytest.mark.parametrize(
    ("pair", "version"),
    [
        pytest.param(Flavour(), "10", id="newest-10"),
        pytest.param(Flavour(), "12", id="newest-12"),
        pytest.param(Flavour(b="oldest"), "11", id="oldest-11", marks=pytest.mark.oldest),
    ],
    indirect=["pair"],
    scope="module",
)


@dataclass
class Attack:
    """An incident, and what was forged meanwhile."""

    room: Room
    peer: HostilePeer
    accept: set[str] = field(default_factory=set)
    """What B wrongly rejected."""
    soft: set[str] = field(default_factory=set)
    """What B wrongly rejected, and is to soft-fail instead."""
    soft_already: set[str] = field(default_factory=set)
    """What B has soft-failed, as it should."""
    reject: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What B rightly rejected, by its id: the check, and a part of the reason."""
    roots: dict[str, int] = field(default_factory=dict)
    """Roots by their id: how many events cite them."""
    followers: set[str] = field(default_factory=set)
    """What was accepted though it follows what was rightly rejected."""
    not_stored: set[str] = field(default_factory=set)

    @property
    def rejected_by_b(self) -> set[str]:
        return self.accept | self.soft | {*self.reject}


def lose(room: Room, type: str, send: Callable[[], str]) -> str:
    """Lets B reject what `send` sends."""
    room.b.sabotage(type=type, room_id=room.room_id)
    event_id = send()
    room.b.wait_for_event(event_id)
    room.b.sabotage_off()
    return event_id


def make_attack(pair: Pair, version: str) -> Attack:
    room = pair.room(version)
    r, alice, bob = room.room_id, room.alice, room.bob
    number = alice.user_id[6:].partition(":")[0]
    dave, eve, frank = (room.a.register(f"{name}{number}") for name in ("dave", "eve", "frank"))
    for user in (dave, eve, frank):
        user.join(r)
    elsewhere = pair.room(version)
    forger = Forger(room)
    peer, auth, send = forger.peer, forger.auth, forger.send
    attack = Attack(room, peer)

    # Nobody cites the topic: B accepts what follows it.
    topic = lose(
        room, "m.room.topic", lambda: alice.send_state(r, "m.room.topic", {"topic": "Uncited"})
    )
    old = eve.send_message(r, "While I could")
    room.wait_everywhere(old)
    free = peer.current_state()
    alice.ban(r, eve.user_id)
    base = alice.send_message(r, "The last before X")
    room.wait_everywhere(base)
    before = peer.current_state()
    x = lose(room, "m.room.power_levels", lambda: promote(room, room.carol, 50))
    behind = peer.current_state()
    said = alice.send_message(r, "Lost")
    alice.ban(r, frank.user_id)
    ban = peer.current_state()["m.room.member", frank.user_id]
    last = alice.send_message(r, "Lost as well")
    room.b.wait_for_event(last)
    attack.accept = {topic, x, said, ban, last}

    def reject(event_id: str, check: str, why: str, root: int | None = None) -> str:
        attack.reject[event_id] = (check, why)
        if root is not None:
            attack.roots[event_id] = root
        return event_id

    # By themselves.
    levels = {**alice.get_state(r, "m.room.power_levels"), "users": {dave.user_id: 100}}
    grab = reject(
        send("m.room.power_levels", dave, levels, [base], auth(before, dave), ""),
        *("auth_events", "permission"),
        root=1,
    )
    reject(
        send("m.room.message", dave, TEXT, [grab], [*auth({**before, POWER: grab}, dave)]),
        *("auth_events", grab),
    )
    reject(
        send(
            "m.room.member",
            dave,
            {"membership": "ban"},
            [base],
            auth(before, dave, bob),
            bob.user_id,
        ),
        *("auth_events", "ban"),
        root=0,
    )
    reject(
        send(
            "m.room.member",
            eve,
            {"membership": "join"},
            [base],
            auth(before, eve, join_rules=True),
            eve.user_id,
        ),
        *("auth_events", "banned"),
        root=0,
    )
    foreign = HostilePeer(room.a, elsewhere.room_id).current_state()[POWER]
    reject(
        send("m.room.message", alice, TEXT, [base], auth({**before, POWER: foreign}, alice)),
        *("auth_events", foreign),
        root=0,
    )
    reject(
        send("m.room.message", dave, TEXT, [base], auth(before)),
        *("auth_events", "not in room"),
        root=0,
    )
    cited = auth(before, alice)
    reject(
        send("m.room.message", alice, TEXT, [base], [*cited, cited[0]]),
        *("auth_events", "duplicate"),
        root=0,
    )
    others = [i for key, i in before.items() if i not in cited and key[0] != "m.room.create"]
    # From room version 12 on, the create event counts though nobody cites it.
    most = 10 if version < "12" else 9
    reject(
        send("m.room.message", alice, TEXT, [base], [*cited, *others][:most]),
        *("auth_events", "unexpected auth_event"),
        root=0,
    )
    attack.not_stored.add(
        send("m.room.message", alice, TEXT, [base], [*cited, "$" + "x" * 43], stored=False)
    )

    # Followed by what is accepted.
    topic_of_dave = reject(
        send("m.room.topic", dave, {"topic": "Mine"}, [base], auth(before, dave), ""),
        *("auth_events", "permission"),
        root=0,
    )
    follower = send("m.room.message", alice, TEXT, [topic_of_dave], auth(before, alice))
    name = {"name": "Follows as well"}
    attack.followers = {
        follower,
        send("m.room.name", alice, name, [follower], auth(before, alice), ""),
    }

    # Too late.
    attack.soft_already.add(send("m.room.message", eve, TEXT, [old], auth(free, eve)))
    attack.soft = {
        send("m.room.message", frank, TEXT, [x], auth(behind, frank)),
        send(
            "m.room.member",
            frank,
            {"membership": "join", "displayname": "Late"},
            [x],
            auth(behind, frank, join_rules=True),
            frank.user_id,
        ),
    }

    # Behind X, and wrong by themselves.
    reject(
        send("m.room.message", frank, TEXT, [ban], auth(behind, frank)),
        *("state_before", "not in room"),
    )
    kick = reject(
        send(
            "m.room.member",
            dave,
            {"membership": "leave"},
            [last],
            auth(behind, dave, bob),
            bob.user_id,
        ),
        *("auth_events", "kick"),
    )

    # Behind X, and odd, but right.
    attack.accept |= {
        send("m.room.message", alice, TEXT, [kick], auth(behind, alice)),
        send("m.room.message", alice, TEXT, [last], auth(behind, alice), depth=0),
    }
    many = [
        send("test.many", alice, {"n": n}, [last], auth(behind, alice), depth=3) for n in range(20)
    ]
    merged = send("m.room.message", alice, TEXT, many, auth(behind, alice))
    attack.accept |= {*many, merged}
    # Too much of everything is not even stored.
    attack.not_stored |= {
        send("m.room.message", alice, TEXT, [*many, last], auth(behind, alice), stored=False),
        send(
            "m.room.message", alice, TEXT, [last], [*behind.values()][:11], depth=50, stored=False
        ),
    }

    attack.roots[topic] = 0
    cite_x = attack.accept | attack.soft | {*attack.reject} - {*attack.roots}
    attack.roots[x] = len(cite_x - {topic, x}) - attack.roots[grab]
    return attack


@pytest.fixture(scope="module")
def attack(pair: Pair, version: str) -> Iterator[Attack]:
    yield make_attack(pair, version)


def assert_defended(attack: Attack) -> None:
    """Asserts that B has what A has, and that nothing hostile is in the room."""
    room = attack.room
    r, bob = room.room_id, room.bob
    assert room.b.rejected(r) == {*attack.reject}
    assert compare.soft_failed(room.b, r) == attack.soft | attack.soft_already
    on_a, on_b = (compare.database_facets(room, server) for server in (room.a, room.b))
    assert {n: compare.describe(on_a[n], on_b[n]) for n in on_a if on_a[n] != on_b[n]} == {}
    assert compare.inconsistencies(room.b, r) == {}
    # The state before what stays rejected is right too: what follows it builds on that.
    right, found = compare.states_after(room.a, r), compare.states_after(room.b, r)
    assert {i: found[i] for i in attack.reject} == {i: right[i] for i in attack.reject}

    shown = [event["event_id"] for event in bob.messages(r)]
    assert len(shown) == len({*shown})
    assert {*shown} >= attack.accept | attack.followers
    kept_out = {*attack.reject} | attack.soft | attack.soft_already
    assert not kept_out & {*shown}
    assert not kept_out & {event["event_id"] for event in bob.state(r).values()}
    assert not kept_out & compare.extremities(room.b, r)

    assert health(bob, r) == {
        "rejected": len(attack.reject),
        "soft_failed": len(attack.soft | attack.soft_already),
    }
    again = repair(bob, r)
    assert (again["accepted"], again["rejected"]) == (0, len(attack.reject))
    assert room.b.rejected(r) == {*attack.reject}


def assert_foretold(attack: Attack, plan: JsonDict) -> None:
    """Asserts that a dry run tells right from wrong, and says why."""
    told = {event["event_id"]: event for event in plan["events"]}
    assert {i for i, e in told.items() if e["verdict"] == "accept"} == attack.accept | attack.soft
    assert {i for i, e in told.items() if e["soft_failed"]} == attack.soft
    assert {i for i, e in told.items() if e["verdict"] == "reject"} == {*attack.reject}
    for event_id, (check, why) in attack.reject.items():
        assert told[event_id]["check"] == check, told[event_id]
        assert why in told[event_id]["error"]
        assert len(told[event_id]["error"].split()) >= 3
    for event_id in attack.accept | attack.soft:
        assert (told[event_id]["check"], told[event_id]["error"]) == (None, None)
    assert plan["summary"]["accept"] == len(attack.accept | attack.soft)
    assert plan["summary"]["reject"] == len(attack.reject)


@_SOME
def test_the_attack_is_real(attack: Attack) -> None:
    room = attack.room
    r = room.room_id
    assert room.b.rejected(r) == attack.rejected_by_b
    assert compare.soft_failed(room.b, r) == attack.soft_already
    assert room.a.rejected(r) == {*attack.reject}
    assert compare.soft_failed(room.a, r) == attack.soft | attack.soft_already
    for event_id in attack.not_stored:
        assert room.b.database.query("SELECT 1 FROM events WHERE event_id = ?", event_id) == []


@_SOME
def test_what_is_hostile_stays_out(attack: Attack) -> None:
    room = attack.room
    r, bob = room.room_id, room.bob
    found = diagnosis(bob, r)
    assert found["rejected_events"] == len(attack.rejected_by_b)
    assert {root["event_id"]: root["cascade"]["count"] for root in found["roots"]} == attack.roots
    for root in found["roots"]:
        wrong = attack.reject.get(root["event_id"])
        assert root["verdict"] == ("reject" if wrong else "accept")
        assert root["check"] == (wrong[0] if wrong else None)
        assert not wrong or wrong[1] in root["error"]
    assert {e["event_id"] for e in found["soft_failed"]} == attack.soft_already
    assert {e["verdict"] for e in found["soft_failed"]} == {"reject"}
    sick = health(bob, r)
    assert sick["rejected"] == len(attack.reject)
    assert sick["wrongly_rejected"] == len(attack.accept | attack.soft)

    plan = dry_run(bob, r)
    assert_foretold(attack, plan)
    done = repair(bob, r, plan=plan["fingerprint"])
    assert done["accepted"] == len(attack.accept | attack.soft)
    assert done["rejected"] == len(attack.reject)
    assert done["state_changes"] == plan["summary"]["state_changes"]
    assert_defended(attack)


CURE = (
    "UPDATE events SET rejection_reason = NULL WHERE rejection_reason IS NOT NULL",
    "DELETE FROM rejections",
)


@pytest.mark.parametrize("pair", [flavours.NEWEST], indirect=True)
def test_after_the_cure_by_sql_what_is_hostile_is_rejected_again(pair: Pair) -> None:
    attack = make_attack(pair, "10")
    room = attack.room
    r, bob = room.room_id, room.bob
    pair.b.stop()
    for sql in CURE:
        assert pair.b.database.execute(sql) > 0
    pair.b.start()
    # The room goes on, on what is left of it.
    after = room.alice.send_message(r, "Is it well again?")
    pair.b.wait_for_event(after)

    sick = health(bob, r)
    assert sick.keys() >= {"missing_edges", "missing_membership"}
    attack.accept.add(after)
    if after not in pair.b.rejected(r):
        attack.accept.discard(after)
        attack.followers.add(after)
    assert_foretold(attack, dry_run(bob, r))
    done = repair(bob, r)
    assert (done["accepted"], done["rejected"]) == (
        len(attack.accept | attack.soft),
        len(attack.reject),
    )
    assert_defended(attack)


# Force.

newest = pytest.mark.parametrize("pair", [flavours.NEWEST], indirect=True)


@newest
@pytest.mark.parametrize("version", ["10", "12"])
def test_force_accepts_what_it_names_and_what_then_passes(pair: Pair, version: str) -> None:
    room = pair.room(version)
    r, bob = room.room_id, room.bob
    dave = room.a.register(f"dave{room.alice.user_id[6:].partition(':')[0]}")
    dave.join(r)
    base = room.alice.send_message(r, "Peace")
    room.wait_everywhere(base)
    forger = Forger(room)
    state = forger.peer.current_state()
    levels = {**room.alice.get_state(r, "m.room.power_levels"), "users": {dave.user_id: 50}}
    old_rights = forger.auth(state, dave)
    grab = forger.send("m.room.power_levels", dave, levels, [base], old_rights, "")
    new_rights = forger.auth({**state, POWER: grab}, dave)
    said = forger.send("m.room.message", dave, TEXT, [grab], new_rights)
    topic = forger.send("m.room.topic", dave, {"topic": "Mine"}, [said], new_rights, "")
    # Not even the grab gives him the right to what only 100 may do, ...
    more = {**levels, "users": {dave.user_id: 100}}
    greedy = forger.send("m.room.power_levels", dave, more, [topic], new_rights, "")
    # ... and this one claims only what he had before.
    name = forger.send("m.room.name", dave, {"name": "Mine"}, [base], old_rights, "")
    assert room.b.rejected(r) == {grab, said, topic, greedy, name}
    assert dry_run(bob, r)["summary"]["accept"] == 0

    plan = dry_run(bob, r, force=[grab])
    verdicts = {event["event_id"]: event["verdict"] for event in plan["events"]}
    assert verdicts == {
        grab: "accept",
        said: "accept",
        topic: "accept",
        greedy: "reject",
        name: "reject",
    }
    done = repair(bob, r, force=[grab], plan=plan["fingerprint"])
    assert (done["accepted"], done["rejected"]) == (3, 2)
    assert done["state_changes"] == plan["summary"]["state_changes"]
    assert room.b.rejected(r) == {greedy, name}
    now = compare.current_state(room.b, r)
    assert (now[POWER], now["m.room.topic", ""]) == (grab, topic)
    assert now["m.room.name", ""] == state["m.room.name", ""]
    shown = {event["event_id"] for event in bob.messages(r)}
    assert shown >= {grab, said, topic} and not shown & {greedy, name}
    assert compare.inconsistencies(room.b, r) == {}
    assert health(bob, r) == {"rejected": 2}


def change_content(event: JsonDict) -> None:
    event["content"]["body"] = "Something else"


def change_signature(event: JsonDict) -> None:
    for keys in event["signatures"].values():
        for key_id, signature in keys.items():
            keys[key_id] = ("B" if signature[0] == "A" else "A") + signature[1:]


def drop_signature(event: JsonDict) -> None:
    event["signatures"] = {}


def change_what_the_id_hashes(event: JsonDict) -> None:
    event["origin_server_ts"] += 1


TAMPER: list[tuple[Callable[[JsonDict], Any], str]] = [
    (change_content, "hash"),
    (change_what_the_id_hashes, "hash"),
    (change_signature, "signature"),
    (drop_signature, "signature"),
]


@newest
@pytest.mark.parametrize("version", ["10", "12"])
def test_no_force_accepts_what_was_not_signed_as_it_is(pair: Pair, version: str) -> None:
    room = pair.room(version)
    r, bob = room.room_id, room.bob
    x = lose(room, "m.room.power_levels", lambda: promote(room, room.carol, 50))
    lost = [room.alice.send_message(r, f"Lost {number}") for number in range(len(TAMPER) + 1)]
    room.b.wait_for_event(lost[-1])
    assert room.b.rejected(r) == {x, *lost}
    room.b.stop()
    for event_id, (tamper, _) in zip(lost, TAMPER, strict=False):
        text = room.b.database.value("SELECT json FROM event_json WHERE event_id = ?", event_id)
        event = json.loads(text)
        tamper(event)
        sql = "UPDATE event_json SET json = ? WHERE event_id = ?"
        assert room.b.database.execute(sql, json.dumps(event), event_id) == 1
    # Synapse sends nothing to anybody any more if it comes upon one of these on its way.
    passed = "UPDATE federation_stream_position SET stream_id = ? WHERE type = 'events'"
    newest = room.b.database.value("SELECT MAX(stream_ordering) FROM events")
    assert room.b.database.execute(passed, newest) >= 1
    room.b.start()

    tampered = {i: check for i, (_, check) in zip(lost, TAMPER, strict=False)}
    for force in ([], [*tampered]):
        plan = dry_run(bob, r, force=force)
        told = {event["event_id"]: event for event in plan["events"]}
        assert {i: (told[i]["verdict"], told[i]["check"]) for i in tampered} == {
            i: ("reject", check) for i, check in tampered.items()
        }
        assert all(len(told[i]["error"].split()) >= 3 for i in tampered)
        assert told[x]["verdict"] == told[lost[-1]]["verdict"] == "accept"
    done = repair(bob, r, force=[*tampered])
    assert (done["accepted"], done["rejected"]) == (2, len(tampered))
    assert room.b.rejected(r) == {*tampered}
    # Synapse answers no list that an event would be in whose id is not its own: no scrollback here.
    for event_id in (x, lost[-1]):
        assert bob.event(r, event_id)["event_id"] == event_id
    # What lies between them is rejected.
    assert compare.extremities(room.b, r) == {x, lost[-1]}
    assert health(bob, r) == {"rejected": len(tampered)}
    assert repair(bob, r, force=[*tampered])["accepted"] == 0


@newest
def test_a_huge_depth_misleads_nobody(pair: Pair) -> None:
    # In a room of its own: Synapse gives what follows it a depth that no server takes.
    room = pair.room("10")
    r = room.room_id
    x = lose(room, "m.room.power_levels", lambda: promote(room, room.carol, 50))
    forger = Forger(room)
    rights = forger.auth(forger.peer.current_state(), room.alice)
    deepest = forger.send("m.room.message", room.alice, TEXT, [x], rights, depth=2**53 - 1)
    topic = {"topic": "Below"}
    below = forger.send("m.room.topic", room.alice, topic, [deepest], rights, "", depth=1)
    message = forger.send("m.room.message", room.alice, TEXT, [below], rights, depth=0)
    assert room.b.rejected(r) == {x, deepest, below, message}
    plan = dry_run(room.bob, r)
    assert [event["event_id"] for event in plan["events"]] == [x, deepest, below, message]
    assert repair(room.bob, r)["accepted"] == 4
    assert compare.differences(room) == {}
    assert health(room.bob, r) == {}


# What Synapse rejects before it looks at what the event cites.

_SLOW_POSTGRES = [pytest.mark.postgres, pytest.mark.slow]
_POISONED = [
    pytest.param(Flavour(b="oldest"), {}, id="oldest-no-text", marks=pytest.mark.oldest),
    pytest.param(Flavour(), "$a\0b", id="newest-nul"),
    pytest.param(Flavour(database="postgres"), "$a\0b", id="postgres-nul", marks=_SLOW_POSTGRES),
]


@pytest.mark.parametrize(("pair", "cited"), _POISONED, indirect=["pair"])
def test_what_cites_no_event_blinds_nobody(pair: Pair, cited: object) -> None:
    room = pair.room("10")
    r, alice, bob = room.room_id, room.alice, room.bob
    peer = HostilePeer(room.a, r)
    # Too long in bytes alone: it is stored as rejected, unseen what else it holds.
    event, _ = peer.forge("\u00e9" * 200, alice.user_id, TEXT)
    event["auth_events"] = [cited]
    peer.sign(event)
    ((poison, said),) = peer.send(room.b, event).items()
    assert said == {}
    room.b.wait_for_event(poison)
    assert room.b.rejected(r) == {poison}
    x = lose(room, "m.room.power_levels", lambda: promote(room, room.carol, 50))
    lost = [alice.send_message(r, f"Lost {number}") for number in range(12)]
    room.b.wait_for_event(lost[-1])

    alerted = "SELECT event_id FROM rejection_repair_alerts WHERE room_id = ?"
    wait_for(lambda: room.b.database.query(alerted, r) == [(x,)], what="an alert")
    seen = "SELECT event_id FROM rejection_repair_seen WHERE room_id = ?"
    assert {i for (i,) in room.b.database.query(seen, r)} >= {poison, x}
    rows = bob.repair_api("GET", "/rooms" + quoted(r, "rejections"))["rejections"]
    assert {row["event_id"]: row["cites"] for row in rows}[poison] == []
    verdicts = {root["event_id"]: root["verdict"] for root in diagnosis(bob, r)["roots"]}
    assert verdicts == {poison: "reject", x: "accept"}
    job = repair(bob, r)
    assert (job["accepted"], job["rejected"]) == (1 + len(lost), 1)
    assert room.b.rejected(r) == {poison}
    assert health(bob, r) == {"rejected": 1}
    assert room.b.errors_in_log() == []


# What cannot be stored.

EVERYWHERE = pytest.mark.parametrize(
    "pair",
    [flavours.NEWEST, flavours.SLOW_OLDEST, flavours.SLOW_POSTGRES],
    indirect=True,
)

_UNSTORABLE: dict[str, JsonDict] = {
    "labels that are no list": {**TEXT, "org.matrix.labels": 1},
    "a label twice": {**TEXT, "org.matrix.labels": ["a", "a"]},
    "a label that is no text": {**TEXT, "org.matrix.labels": ["a", ["b"]]},
}
_LONG = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=5000))
_UNSTORABLE_ON_POSTGRES: dict[str, JsonDict] = {
    "NUL in a label": {**TEXT, "org.matrix.labels": ["a\0"]},
    "NUL in a key": {"rel_type": "m.annotation", "event_id": "$it", "key": "a\0"},
    "NUL in a type of relations": {"rel_type": "a\0", "event_id": "$it"},
    "NUL in what is related to": {"rel_type": "m.thread", "event_id": "$it\0"},
    "a long label": {**TEXT, "org.matrix.labels": [_LONG]},
    "a long key": {"rel_type": "m.annotation", "event_id": "$it", "key": _LONG},
    "a long type of relations": {"rel_type": _LONG, "event_id": "$it"},
    "a long id": {"rel_type": "m.thread", "event_id": "$" + _LONG},
}
_STORABLE: dict[str, JsonDict] = {
    "no labels": {**TEXT, "org.matrix.labels": []},
    "two labels": {**TEXT, "org.matrix.labels": ["a", "b"]},
    "labels as Synapse takes them": {**TEXT, "org.matrix.labels": {"a": 1, "b": 1}},
    "a key of the greatest length": {
        "rel_type": "m.annotation",
        "event_id": "$it",
        "key": "\U0001f40c" * 500,
    },
}


@EVERYWHERE
def test_what_cannot_be_stored_as_accepted_holds_nothing_up(pair: Pair) -> None:
    room = pair.room("10")
    r, alice = room.room_id, room.alice
    x = lose(room, "m.room.power_levels", lambda: promote(room, room.carol, 50))
    said = alice.send_message(r, "Lost")
    room.b.wait_for_event(said)
    forger = Forger(room)
    peer, rights = forger.peer, forger.auth(forger.peer.current_state(), alice)

    def send(type: str, content: JsonDict, prev: str, state_key: str | None = None) -> str:
        # To B alone: no Synapse stores these, unless it rejects them.
        if "rel_type" in content:
            type, content = "m.reaction", {"m.relates_to": content}
        event, event_id = peer.forge(
            type,
            alice.user_id,
            content,
            state_key=state_key,
            prev_events=[prev],
            auth_events=rights,
            depth=60,
        )
        assert peer.send(room.b, event) == {event_id: {}}
        room.b.wait_for_event(event_id)
        return event_id

    postgres = isinstance(room.b.database, PostgresDatabase)
    bad, good = dict(_UNSTORABLE), dict(_STORABLE)
    (bad if postgres else good).update(_UNSTORABLE_ON_POSTGRES)
    accept = {x: "x", said: "said"}
    accept |= {send("m.room.message", content, said): name for name, content in good.items()}
    reject = {send("m.room.message", content, said): name for name, content in bad.items()}
    topic = {"topic": "Mine", "org.matrix.labels": 1}
    topic_id = send("m.room.topic", topic, said, "")
    reject[topic_id] = "the topic"
    accept[send("m.room.message", TEXT, topic_id)] = "what follows the topic"
    last = alice.send_message(r, "Lost as well")
    room.b.wait_for_event(last)
    accept[last] = "the last"
    assert room.b.rejected(r) == {*accept, *reject}

    told = {event["event_id"]: event for event in dry_run(room.bob, r)["events"]}
    assert {reject[i] for i in reject if told[i]["verdict"] == "reject"} == {*reject.values()}
    assert {accept[i] for i in accept if told[i]["verdict"] == "accept"} == {*accept.values()}
    for event_id in reject:
        assert told[event_id]["check"] == "validity"
        assert len(told[event_id]["error"].split()) >= 3
    forced = {e["event_id"]: e for e in dry_run(room.bob, r, force=[*reject])["events"]}
    assert {forced[i]["verdict"] for i in reject} == {"reject"}
    done = repair(room.bob, r)
    assert (done["accepted"], done["rejected"]) == (len(accept), len(reject))
    assert room.b.rejected(r) == {*reject}
    assert compare.inconsistencies(room.b, r) == {}
    assert health(room.bob, r) == {"rejected": len(reject)}
    again = repair(room.bob, r)
    assert (again["accepted"], again["rejected"]) == (0, len(reject))


@EVERYWHERE
def test_an_event_that_synapse_fails_to_store_holds_nothing_up(pair: Pair) -> None:
    # Synapse cannot take a thread away that is not there any more.
    room = pair.room("10")
    r, alice, bob = room.room_id, room.alice, room.bob
    root = alice.send_message(r, "A thread begins")
    said = alice.send_in_thread(r, root, "In the thread")
    room.wait_everywhere(said)
    x = lose(room, "m.room.power_levels", lambda: promote(room, room.carol, 50))
    lost = [alice.send_message(r, "Lost")]
    redaction = alice.redact(r, said)
    lost.append(alice.send_message(r, "Lost as well"))
    room.b.wait_for_event(lost[-1])
    assert room.b.rejected(r) == {x, redaction, *lost}
    assert room.b.database.execute("DELETE FROM threads WHERE thread_id = ?", root) == 1

    for accepted in (3, 0):
        job = finished(bob, start(bob, r))
        assert job["status"] == "failed"
        assert redaction in job["error"] and "all the rest is done" in job["error"]
        assert (job["accepted"], job["rejected"]) == (accepted, 1)
        assert room.b.rejected(r) == {redaction}
        assert compare.inconsistencies(room.b, r) == {}
        told = {event["event_id"]: event for event in dry_run(bob, r)["events"]}
        assert told[redaction]["verdict"] == "reject"
        assert "StoreError" in told[redaction]["error"]
    sql = "INSERT INTO threads VALUES (?, ?, ?, 1, 1)"
    room.b.database.execute(sql, r, root, said)
    assert repair(bob, r)["accepted"] == 1
    assert compare.differences(room) == {}
