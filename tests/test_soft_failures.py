"""Events that B soft-failed since its state was stale are let through; others stay unheard.

A never erred, so what A soft-fails is what B is to soft-fail after the repair.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from signedjson.key import generate_signing_key
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import add_hashes_and_signatures

from synapse_rejection_repair.adapter.soft_failures import _is_spam
from tests.harness import compare
from tests.harness.client import Client, JsonDict, quoted
from tests.harness.compare import differences
from tests.harness.federation import Pair, Room
from tests.harness.flavours import NEWEST, SLOW_OLDEST_ON_POSTGRES
from tests.harness.forging import Forger
from tests.harness.losing import everywhere, lose_state, settled
from tests.harness.repairing import diagnosis, dry_run, finished, health, repair

TEXT = {"msgtype": "m.text", "body": "Late, but welcome"}

_BOTH = pytest.mark.parametrize(
    "pair",
    [NEWEST, SLOW_OLDEST_ON_POSTGRES],
    indirect=True,
    scope="module",
)


@dataclass
class Story:
    """A room in which B lost the event that gave people their voice back."""

    room: Room
    forger: Forger
    old: str
    """What the late events follow."""
    free: dict[tuple[str, str], str]
    """The state there."""
    x: str = ""
    lost: list[str] = field(default_factory=list)
    """What B rejected, X and its cascade."""
    wrong: list[str] = field(default_factory=list)
    """What B soft-failed, and A accepted, in order."""
    right: list[str] = field(default_factory=list)
    """What both soft-failed."""

    def late(self, user: Client, type: str = "m.room.message", **event: object) -> str:
        content = event.get("content", TEXT)
        prevs = event.get("prevs", [self.old])
        assert isinstance(content, dict) and isinstance(prevs, list)
        auth = self.forger.auth(self.free, user)
        state_key = "" if "state" in event else None
        return self.forger.send(type, user, content, prevs, auth, state_key)


def levels(room: Room, **changes: object) -> JsonDict:
    content = copy.deepcopy(room.alice.get_state(room.room_id, "m.room.power_levels"))
    return {**content, **changes}


def make_story(room: Room) -> Story:
    r, alice = room.room_id, room.alice
    number = alice.user_id[6:].partition(":")[0]
    dave, eve, frank = (room.a.register(f"{name}{number}") for name in ("dave", "eve", "frank"))
    for user in (dave, eve, frank):
        user.join(r)
    users = levels(room).get("users", {})
    free = levels(room, users={**users, dave.user_id: 50})
    alice.send_state(r, "m.room.power_levels", free)
    doomed = alice.send_message(r, "Doomed")
    old = alice.send_message(r, "While all could speak")
    everywhere(room, doomed, old)
    forger = Forger(room)
    story = Story(room, forger, old, forger.peer.current_state())

    alice.ban(r, eve.user_id)
    alice.ban(r, frank.user_id)
    mute = levels(room, users=users, events_default=50)
    everywhere(room, alice.send_state(r, "m.room.power_levels", mute))
    story.x = lose_state(room, "m.room.power_levels", free)
    said = alice.send_message(r, "Speak again")
    room.b.wait_for_event(said)

    first = story.late(dave)
    topic = story.late(dave, "m.room.topic", content={"topic": "Late"}, prevs=[first], state=True)
    story.wrong = [first, topic]
    story.wrong.append(story.late(dave, prevs=[topic]))
    reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": old, "key": "👏"}}
    story.wrong.append(story.late(dave, "m.reaction", content=reaction))
    # Both were banned when it arrived, whatever becomes of them.
    story.right = [story.late(eve), story.late(frank)]
    room.alice.call(
        "POST", f"/_matrix/client/v3/rooms{quoted(r)}/unban", {"user_id": frank.user_id}
    )
    frank.join(r)
    back = forger.peer.current_state()["m.room.member", frank.user_id]
    last = alice.send_message(r, "All are here")
    settled(room, [back, last])
    story.lost = sorted(room.b.rejected(r))
    assert {story.x, said, back, last} <= {*story.lost}
    return story


@pytest.fixture(scope="module")
def story(pair: Pair) -> Iterator[Story]:
    yield make_story(pair.room("11"))


@_BOTH
def test_they_are_told_apart(story: Story) -> None:
    room = story.room
    r, bob = room.room_id, room.bob
    assert compare.soft_failed(room.a, r) == {*story.right}
    assert compare.soft_failed(room.b, r) == {*story.wrong, *story.right}

    found = diagnosis(bob, r)
    assert found["soft_failed_events"] == len(story.wrong) + len(story.right)
    verdicts = {e["event_id"]: e["verdict"] for e in found["soft_failed"]}
    assert verdicts == {i: "accept" for i in story.wrong} | {i: "reject" for i in story.right}
    assert all("not in room" in e["error"] for e in found["soft_failed"] if e["error"])
    assert health(bob, r) == {
        "wrongly_rejected": len(story.lost),
        "wrongly_soft_failed": len(story.wrong),
        "soft_failed": len(story.right),
    }

    plan = dry_run(bob, r)
    assert plan["summary"]["let_through"] == len(story.wrong)
    assert plan["summary"]["accept"] == len(story.wrong) + len(story.lost)
    assert [e["event_id"] for e in plan["events"] if e["was_soft_failed"]] == story.wrong
    assert all(e["verdict"] == "accept" and not e["soft_failed"] for e in plan["events"])


@_BOTH
def test_they_are_let_through_and_put_back(story: Story) -> None:
    room = story.room
    r, bob = room.room_id, room.bob
    since = bob.sync()["next_batch"]
    plan = dry_run(bob, r)
    done = repair(bob, r, plan=plan["fingerprint"])
    assert done["accepted"] == plan["summary"]["accept"]
    assert done["state_changes"] == plan["summary"]["state_changes"]
    assert_heard(story)
    timeline = bob.sync(since)["rooms"]["join"][r]["timeline"]["events"]
    assert {*story.wrong} <= {e["event_id"] for e in timeline}
    assert repair(bob, r)["accepted"] == 0

    path = "/repairs" + quoted(done["repair_id"], "undo")
    undone = bob.repair_api("POST", path, {"dry_run": False})
    finished(bob, undone["repair_id"])
    assert compare.soft_failed(room.b, r) == {*story.wrong, *story.right}
    assert room.b.rejected(r) == {*story.lost}
    assert dry_run(bob, r)["summary"] == plan["summary"]
    repair(bob, r)
    assert_heard(story)


def assert_heard(story: Story) -> None:
    room = story.room
    assert differences(room) == {}
    assert compare.soft_failed(room.b, room.room_id) == {*story.right}
    shown = {e["event_id"] for e in room.bob.messages(room.room_id)}
    assert {*story.wrong} <= shown and not {*story.right} & shown
    assert health(room.bob, room.room_id) == {"soft_failed": len(story.right)}
    assert room.bob.get_state(room.room_id, "m.room.topic") == {"topic": "Late"}


@_BOTH
def test_they_are_known_after_a_repair_of_the_root_alone(pair: Pair) -> None:
    story = make_story(pair.room("12"))
    room = story.room
    r, bob = room.room_id, room.bob
    assert repair(bob, r, event_ids=[story.x])["accepted"] == len(story.lost)
    assert compare.soft_failed(room.b, r) == {*story.wrong, *story.right}
    assert health(bob, r) == {
        "wrongly_soft_failed": len(story.wrong),
        "soft_failed": len(story.right),
    }
    found = diagnosis(bob, r)
    assert (found["rejected_events"], found["roots"], found["still_flowing"]) == (0, [], [])
    assert {e["event_id"] for e in found["soft_failed"]} == {*story.wrong, *story.right}
    one = dry_run(bob, r, event_ids=story.wrong[:1])
    assert [e["event_id"] for e in one["events"]] == story.wrong[:1]
    assert repair(bob, r)["accepted"] == len(story.wrong)
    assert_heard(story)


@_BOTH
def test_whoever_is_banned_today_stays_unheard(pair: Pair) -> None:
    story = make_story(pair.room("11"))
    room = story.room
    r, alice = room.room_id, room.alice
    dave = next(u for (t, u) in story.free if t == "m.room.member" and u.startswith("@dave"))
    alice.ban(r, dave)
    settled(room, [alice.send_message(r, "Enough")])
    found = {e["event_id"]: e for e in diagnosis(room.bob, r)["soft_failed"]}
    for event_id in story.wrong:
        assert found[event_id]["verdict"] == "reject"
        assert "banned" in found[event_id]["error"]
    assert dry_run(room.bob, r)["summary"]["let_through"] == 0
    repair(room.bob, r)
    assert compare.soft_failed(room.b, r) == {*story.wrong, *story.right}


def test_what_was_taken_for_spam_is_known() -> None:
    version = KNOWN_ROOM_VERSIONS["11"]
    event: JsonDict = {
        "type": "m.room.message",
        "room_id": "!r:a",
        "sender": "@mallory:a",
        "content": {"msgtype": "m.text", "body": "Buy!"},
        "auth_events": [],
        "prev_events": [],
        "depth": 1,
        "origin_server_ts": 1,
    }
    add_hashes_and_signatures(version, event, "a", generate_signing_key("1"))
    whole = json.dumps(event)
    # A module that knows spam leaves no more than this, and older versions no other mark.
    redacted = json.dumps({**event, "content": {}})
    assert not _is_spam({"soft_failed": True}, whole, version)
    assert _is_spam({"soft_failed": True}, redacted, version)
    assert _is_spam({"soft_failed": True, "policy_server_spammy": True}, whole, version)
    assert _is_spam({"soft_failed": True, "spam_checker_spammy": True}, whole, version)
