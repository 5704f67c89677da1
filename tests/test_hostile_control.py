"""Events that another server's real key signed, and that must not get in with the rest.

Everything is done twice: in a room where B errs and is repaired, and in one where it never errs.
What B makes of each event must be the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.harness import compare, flavours
from tests.harness.client import Client
from tests.harness.federation import Pair, Room
from tests.harness.hostile import HostilePeer
from tests.harness.incident import promote
from tests.harness.installs import NEWEST
from tests.harness.losing import everywhere, lose, lose_state
from tests.harness.repairing import diagnosis, dry_run, finished, health, repair, start
from tests.harness.waiting import wait_for

pytestmark = pytest.mark.parametrize("pair", [flavours.NEWEST, flavours.SLOW_OLDEST], indirect=True)


@pytest.fixture
def rooms(pair: Pair) -> tuple[Room, Room]:
    """A room to err in, and one to compare it with."""
    version = "12" if pair.b.install is NEWEST else "10"
    return pair.room(version), pair.room(version)


@dataclass
class Attack:
    """What A sent into one room, good and bad."""

    room: Room
    peer: HostilePeer
    ids: dict[str, str] = field(default_factory=dict)

    def send(self, name: str, type: str, sender: str, content: dict, **fields) -> str:
        """Forges an event and sends it to B alone; A's own Synapse never hears of it."""
        event, event_id = self.peer.forge(type, sender, content, **fields)
        self.peer.send(self.room.b, event)
        self.ids[name] = event_id
        return event_id

    def say(self, name: str, sender: str, **fields) -> str:
        content = {"msgtype": "m.text", "body": f"Forged: {name}"}
        return self.send(name, "m.room.message", sender, content, **fields)

    def settle(self, name: str) -> None:
        """Sends a good event, and waits until B has come as far as that.

        B takes a room's events one after the other.
        """
        self.room.b.wait_for_event(self.say(name, self.room.alice.user_id))

    def standing(self) -> dict[str, str]:
        """What B made of each event."""
        r, b = self.room.room_id, self.room.b
        rejected, soft_failed = b.rejected(r), compare.soft_failed(b, r)
        stored = {
            i for (i,) in b.database.query("SELECT event_id FROM events WHERE room_id = ?", r)
        }
        return {
            name: "missing"
            if i not in stored
            else "rejected"
            if i in rejected
            else "soft-failed"
            if i in soft_failed
            else "accepted"
            for name, i in self.ids.items()
        }

    def names(self, event_ids: set[str]) -> set[str]:
        """Names what an id of this room can be compared by."""
        known = {i: name for name, i in self.ids.items()}
        return {known.get(i, "?") for i in event_ids}


def member(room: Room, name: str) -> Client:
    user = room.a.register(f"{name}-{room.alice.user_id[1:].split(':')[0]}")
    user.join(room.room_id)
    wait_for(lambda: user.user_id in room.bob.members(room.room_id), what="B to see who joined")
    return user


def attack(room: Room, elsewhere: Room, *, err: bool) -> Attack:
    """Sends B all that is bad, and some that is good, around power levels that B may lose."""
    r, alice = room.room_id, room.alice
    peer = HostilePeer(room.a, r)
    found = Attack(room, peer)
    ids = found.ids
    mallory, victim, eve = (member(room, name) for name in ("mallory", "victim", "eve"))

    ids["before the ban"] = alice.send_message(r, "Before the ban")
    before_ban = {
        "prev_events": [ids["before the ban"]],
        "auth_events": [
            i
            for key, i in peer.current_state().items()
            if key in (("m.room.power_levels", ""), ("m.room.member", eve.user_id))
            or (key == ("m.room.create", "") and room.version != "12")
        ],
    }
    everywhere(room, ids["before the ban"])
    alice.ban(r, eve.user_id)
    ids["ban"] = peer.current_state()["m.room.member", eve.user_id]
    everywhere(room, ids["ban"])
    found.say("soft, before", eve.user_id, **before_ban)
    found.send("grab, before", "m.room.topic", mallory.user_id, {"topic": "Mine"}, state_key="")

    if err:
        ids["x"] = lose(room, lambda: promote(room, room.carol, 50), type="m.room.power_levels")
    else:
        ids["x"] = promote(room, room.carol, 50)
    ids["first"] = alice.send_message(r, "First")
    ids["topic"] = alice.send_state(r, "m.room.topic", {"topic": "Alice's"})
    everywhere(room, ids["x"], ids["first"], ids["topic"])

    levels = alice.get_state(r, "m.room.power_levels")
    grab = {**levels, "users": {**levels.get("users", {}), mallory.user_id: 100}}
    found.send("grab", "m.room.power_levels", mallory.user_id, grab, state_key="")
    found.say(
        "by the grab",
        mallory.user_id,
        prev_events=[ids["grab"]],
        auth_events=[
            ids["grab"],
            peer.current_state()["m.room.member", mallory.user_id],
            *([] if room.version == "12" else [peer.current_state()["m.room.create", ""]]),
        ],
    )
    found.send(
        "ban by anybody",
        "m.room.member",
        mallory.user_id,
        {"membership": "ban"},
        state_key=alice.user_id,
    )
    found.send(
        "join for another",
        "m.room.member",
        mallory.user_id,
        {"membership": "join"},
        state_key=f"@nobody:{room.a.name}",
    )
    found.send(
        "name of another",
        "m.room.member",
        mallory.user_id,
        {"membership": "join", "displayname": "Fool"},
        state_key=victim.user_id,
    )
    found.send("hostile topic", "m.room.topic", mallory.user_id, {"topic": "Mine"}, state_key="")
    found.say("no member", f"@nobody:{room.a.name}")
    foreign = HostilePeer(room.a, elsewhere.room_id).current_state()
    found.say(
        "by another room",
        alice.user_id,
        auth_events=[
            foreign["m.room.power_levels", ""],
            foreign["m.room.member", elsewhere.alice.user_id],
        ],
    )
    found.say("cites nothing", alice.user_id, auth_events=[])
    everything = peer.current_state()
    own = [
        i
        for key, i in everything.items()
        if key[0] in ("m.room.power_levels", "m.room.name")
        or key == ("m.room.member", alice.user_id)
        or (key[0] == "m.room.create" and room.version != "12")
    ]
    found.say("cites too much", alice.user_id, auth_events=own)
    # More than the specification lets an event cite.
    found.say("cites too many", alice.user_id, auth_events=[*everything.values()] * 2)
    found.say("soft, after", eve.user_id, **before_ban)
    found.send(
        "stale levels",
        "m.room.power_levels",
        mallory.user_id,
        grab,
        state_key="",
        prev_events=[ids["before the ban"]],
    )

    # Odd, but allowed.
    found.say("follows the grab", alice.user_id, prev_events=[ids["grab"]])
    found.say("follows what is soft", alice.user_id, prev_events=[ids["soft, after"], ids["first"]])
    found.say("deep", alice.user_id, depth=10**9)
    found.say("shallow", alice.user_id, depth=1)
    found.say("old", alice.user_id, origin_server_ts=1)
    forks = [found.say(f"fork {n}", alice.user_id) for n in range(20)]
    found.say("wide", alice.user_id, prev_events=forks)
    found.settle("settled")
    ids["last"] = alice.send_message(r, "Last")
    everywhere(room, ids["last"])
    return found


def test_hostile_events_get_no_further_than_without_the_error(rooms: tuple[Room, Room]) -> None:
    room, control = rooms
    elsewhere = Pair(room.a, room.b).room(room.version)
    right = attack(control, elsewhere, err=False)
    wrong = attack(room, elsewhere, err=True)
    r, bob = room.room_id, room.bob

    expected = right.standing()
    # A comparison with a server that lets everything in would prove nothing.
    bad = {name for name, standing in expected.items() if standing != "accepted"}
    assert {name: expected[name] for name in sorted(bad)} == {
        "ban by anybody": "rejected",
        "by another room": "rejected",
        "by the grab": "rejected",
        "cites nothing": "rejected",
        "cites too many": "missing",
        "cites too much": "rejected",
        "grab": "rejected",
        "grab, before": "rejected",
        "hostile topic": "rejected",
        "join for another": "rejected",
        "name of another": "rejected",
        "no member": "rejected",
        "soft, after": "soft-failed",
        "soft, before": "soft-failed",
        "stale levels": "rejected",
    }
    before = wrong.standing()
    lost = {name for name, standing in before.items() if standing != expected[name]}
    assert lost >= {"x", "first", "wide", "last", "follows the grab", "deep"}
    assert {before[name] for name in lost} == {"rejected"}

    found = diagnosis(bob, r)
    verdicts = {root["event_id"]: root for root in found["roots"]}
    assert verdicts[wrong.ids["x"]]["verdict"] == "accept"
    for name in ("grab, before", "by another room", "no member", "cites nothing"):
        if (root := verdicts.get(wrong.ids[name])) is not None:
            assert root["verdict"] == "reject", name
            assert root["check"] in ("auth_events", "state_before"), name
            assert root["error"], name
    assert health(bob, r) == {
        "wrongly_rejected": len(lost),
        "rejected": sum(standing == "rejected" for standing in expected.values()),
        "soft_failed": 2,
    }

    plan = dry_run(bob, r)
    names = {i: name for name, i in wrong.ids.items()}
    accepted = {names[e["event_id"]] for e in plan["events"] if e["verdict"] == "accept"}
    rejected = {names[e["event_id"]] for e in plan["events"] if e["verdict"] == "reject"}
    assert accepted == lost
    assert rejected == {name for name, standing in expected.items() if standing == "rejected"}
    assert all(e["error"] for e in plan["events"] if e["verdict"] == "reject")

    done = repair(bob, r, plan=plan["fingerprint"])
    assert (done["accepted"], done["rejected"]) == (len(accepted), len(rejected))
    assert wrong.standing() == expected
    assert wrong.names(compare.extremities(room.b, r)) == right.names(
        compare.extremities(control.b, control.room_id)
    )
    # Nothing of it shows.
    shown = {event["event_id"] for event in bob.messages(r)}
    assert not wrong.names(shown) & bad
    state = compare.current_state(room.b, r)
    assert state == compare.current_state(room.a, r)
    assert not wrong.names({*state.values()}) & bad
    assert states_by_name(wrong) == states_by_name(right)
    assert compare.inconsistencies(room.b, r) == {}
    assert health(bob, r) == {"rejected": len(rejected), "soft_failed": 2}

    # The room goes on, and a second run lets nothing in either.
    everywhere(room, room.alice.send_message(r, "Go on"))
    assert repair(bob, r)["accepted"] == 0
    assert wrong.standing() == expected
    assert room.b.errors_in_log() == []


def states_by_name(attack: Attack) -> dict[str, dict[str, str]]:
    """The state after each event, as far as its entries have names."""
    known = {i: name for name, i in attack.ids.items()}
    states = compare.states_after(attack.room.b, attack.room.room_id)
    return {
        name: {key[0]: known[i] for key, i in states.get(event_id, {}).items() if i in known}
        for name, event_id in attack.ids.items()
    }


def test_what_follows_a_hostile_event_has_the_state_before_it(rooms: tuple[Room, Room]) -> None:
    # A lost topic that nobody cites, a hostile event on top of it, and a good one on top of that.
    attacks = []
    for room, err in ((rooms[0], True), (rooms[1], False)):
        found = Attack(room, HostilePeer(room.a, room.room_id))
        attacks.append(found)
        topic = {"topic": "Lost"}
        if err:
            found.ids["topic"] = lose_state(room, "m.room.topic", topic)
        else:
            found.ids["topic"] = room.alice.send_state(room.room_id, "m.room.topic", topic)
            everywhere(room, found.ids["topic"])
        mallory = f"@mallory:{room.a.name}"
        found.send("grab", "m.room.name", mallory, {"name": "Mine"}, state_key="")
        found.say("good", room.alice.user_id, prev_events=[found.ids["grab"]])
        found.say("better", room.alice.user_id, prev_events=[found.ids["good"]])
        found.settle("settled")
    wrong, right = attacks
    room = wrong.room
    expected = right.standing()
    assert expected == {
        "topic": "accepted",
        "grab": "rejected",
        "good": "accepted",
        "better": "accepted",
        "settled": "accepted",
    }
    assert states_by_name(wrong) != states_by_name(right)
    done = finished(room.bob, start(room.bob, room.room_id), timeout=60)
    assert (done["status"], done["error"]) == ("complete", None)
    assert (done["accepted"], done["rejected"]) == (1, 1)
    assert wrong.standing() == expected
    assert states_by_name(wrong) == states_by_name(right)
    # What comes next on top of the hostile event.
    for found in attacks:
        found.say("best", found.room.alice.user_id, prev_events=[found.ids["grab"]])
        found.settle("settled again")
    assert states_by_name(wrong) == states_by_name(right)
    assert health(room.bob, room.room_id) == {"rejected": 1}


def test_force_lets_in_what_is_named_and_what_passes_behind_it(rooms: tuple[Room, Room]) -> None:
    room = rooms[0]
    r, bob = room.room_id, room.bob
    mallory = member(room, "mallory")
    found = Attack(room, HostilePeer(room.a, r))
    found.send("topic", "m.room.topic", mallory.user_id, {"topic": "Mine"}, state_key="")
    levels = room.alice.get_state(r, "m.room.power_levels")
    grab = {**levels, "users": {**levels.get("users", {}), mallory.user_id: 60}}
    found.send("grab", "m.room.power_levels", mallory.user_id, grab, state_key="")
    auth = [
        found.ids["grab"],
        found.peer.current_state()["m.room.member", mallory.user_id],
        *([] if room.version == "12" else [found.peer.current_state()["m.room.create", ""]]),
    ]
    found.send(
        "behind it",
        "m.room.pinned_events",
        mallory.user_id,
        {"pinned": []},
        state_key="",
        prev_events=[found.ids["grab"]],
        auth_events=auth,
    )
    found.send(
        "too far",
        "m.room.power_levels",
        mallory.user_id,
        {**grab, "users": {**grab["users"], mallory.user_id: 100}},
        state_key="",
        prev_events=[found.ids["behind it"]],
        auth_events=auth,
    )
    for event_id in found.ids.values():
        room.b.wait_for_event(event_id)
    assert {*found.standing().values()} == {"rejected"}
    assert dry_run(bob, r)["summary"]["accept"] == 0

    plan = dry_run(bob, r, force=[found.ids["grab"]])
    assert {e["event_id"]: e["verdict"] for e in plan["events"]} == {
        found.ids["topic"]: "reject",
        found.ids["grab"]: "accept",
        found.ids["behind it"]: "accept",
        found.ids["too far"]: "reject",
    }
    done = repair(bob, r, force=[found.ids["grab"]], plan=plan["fingerprint"])
    assert (done["accepted"], done["rejected"]) == (2, 2)
    assert found.standing() == {
        "topic": "rejected",
        "grab": "accepted",
        "behind it": "accepted",
        "too far": "rejected",
    }
    assert compare.extremities(room.b, r) == {found.ids["behind it"]}
    assert bob.get_state(r, "m.room.power_levels")["users"][mallory.user_id] == 60
    # What was forced is there to stay; what was not named is still to be forced.
    room.b.restart()
    assert found.standing()["grab"] == "accepted"
    assert bob.get_state(r, "m.room.power_levels")["users"][mallory.user_id] == 60
    assert dry_run(bob, r)["summary"]["accept"] == 0
    assert dry_run(bob, r, force=[found.ids["topic"]])["summary"]["accept"] == 1
    assert compare.inconsistencies(room.b, r) == {}
    assert room.b.errors_in_log() == []
