"""Events that B never stored: found, and fetched from A by a repair."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.harness import compare
from tests.harness.compare import differences
from tests.harness.federation import Pair, Room
from tests.harness.flavours import NEWEST, SLOW_OLDEST_ON_POSTGRES
from tests.harness.hostile import HostilePeer
from tests.harness.losing import everywhere, lose_invite, lose_state, settled
from tests.harness.repairing import dry_run, finished, health, progress, repair, start
from tests.harness.server import Server
from tests.harness.syncing import SyncedRoom
from tests.harness.waiting import wait_for

_BOTH = pytest.mark.parametrize(
    "pair",
    [NEWEST, SLOW_OLDEST_ON_POSTGRES],
    indirect=True,
    scope="module",
)

MISSED = 26
"""More than Synapse asks for when it finds that something is missing."""


@dataclass
class Story:
    """A room of which B has missed a part."""

    room: Room
    missed: list[str] = field(default_factory=list)
    last: str = ""

    @property
    def gone(self) -> set[str]:
        """What B has not even stored."""
        sql = "SELECT event_id FROM events WHERE room_id = ? AND NOT outlier"
        here = {i for (i,) in self.room.b.database.query(sql, self.room.room_id)}
        return {*self.missed} - here


def make_story(room: Room, *, err: bool) -> Story:
    """Lets B be away while A goes on, in mid-incident or not."""
    r, alice, story = room.room_id, room.alice, Story(room)
    everywhere(room, alice.send_message(r, "All are here"))
    if err:
        levels = alice.get_state(r, "m.room.power_levels")
        users = {**levels.get("users", {}), room.carol.user_id: 50}
        lose_state(room, "m.room.power_levels", {**levels, "users": users})
        room.b.wait_for_event(alice.send_message(r, "Rejected"))
    room.b.stop()
    for number in range(MISSED):
        story.missed.append(alice.send_message(r, f"Missed {number}"))
        if number == 5:
            story.missed.append(alice.send_state(r, "m.room.topic", {"topic": "Missed"}))
        if number == 7:
            story.missed.append(alice.react(r, story.missed[0], "👀"))
    # A is to forget what it still has to send: then it sends no more than the newest.
    room.a.restart()
    room.b.start()
    # A tries B again once it hears of it.
    room.a.wait_for_event(room.bob.send_message(r, "I am back"))
    story.last = alice.send_message(r, "Where have you been?")
    settled(room, [story.last])
    assert story.gone
    return story


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """Lets a server answer nothing for a while."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def assert_whole(room: Room) -> None:
    """Asserts that B has what A has, but for what Synapse never says of old state events."""
    # It does not note what an event replaced that it was first given as a part of a state.
    assert differences(room).keys() <= {"events as shown"}
    assert room.bob.get_state(room.room_id, "m.room.topic") == {"topic": "Missed"}


def backfills(server: Server) -> int:
    return server.log_text().count("GET /_matrix/federation/v1/backfill")


@_BOTH
def test_what_is_missing_in_an_incident_is_fetched_and_repaired(pair: Pair) -> None:
    story = make_story(pair.room("11"), err=True)
    room = story.room
    r, bob = room.room_id, room.bob
    gone = story.gone
    sick = health(bob, r)
    assert sick["gaps"] == 1
    asked = backfills(room.a)
    before = compare.digests(room.b)
    plan = dry_run(bob, r)
    changed = {t for t, digest in compare.digests(room.b).items() if before[t] != digest}
    assert not {t for t in changed if "event" in t or "state" in t or "rejection" in t}
    assert backfills(room.a) == asked
    (gap,) = plan["gaps"]
    assert plan["summary"]["gaps"] == 1
    assert gap["event_id"] in gone
    assert {*gap["cited_by"]} <= {*story.missed, story.last}

    done = repair(bob, r, plan=plan["fingerprint"])
    # What is in a state that A has told B of, is here as an outlier.
    assert 0 < len(gone) - done["fetched"] <= 2
    assert done["accepted"] == plan["summary"]["accept"]
    assert_whole(room)
    assert health(bob, r) == {}
    shown = [e["event_id"] for e in bob.messages(r) if e["event_id"] in {*story.missed}]
    assert shown == story.missed[::-1]
    again = repair(bob, r)
    assert (again["accepted"], again["fetched"]) == (0, 0)
    assert dry_run(bob, r)["gaps"] == []


@_BOTH
def test_without_an_incident_it_is_for_synapse_to_fill_gaps(pair: Pair) -> None:
    story = make_story(pair.room("12"), err=False)
    room = story.room
    r, bob = room.room_id, room.bob
    gone = story.gone
    assert health(bob, r) == {}
    assert dry_run(bob, r)["gaps"] == []
    assert repair(bob, r)["fetched"] == 0
    assert story.gone == gone


@pytest.mark.parametrize("pair", [NEWEST], indirect=True, scope="module")
def test_what_was_said_while_this_server_was_not_in_the_room_is_none_of_its_gaps(
    pair: Pair,
) -> None:
    room = pair.room("11")
    r, alice, users = room.room_id, room.alice, (room.bob, room.carol)
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    everywhere(room, alice.send_message(r, "The last that both have"))
    for user in users:
        user.leave(r)
    wait_for(lambda: alice.members(r).keys() == {alice.user_id}, what="A to see them go")
    missed = [alice.send_message(r, f"Among ourselves {number}") for number in range(3)]
    room.bob.join(r, via=room.a.name)
    settled(room, [alice.send_message(r, "Welcome back")])
    story = Story(room, missed)
    assert story.gone == {*missed}

    assert "gaps" not in health(room.bob, r)
    assert dry_run(room.bob, r)["gaps"] == []
    assert topic in room.b.rejected(r)
    done = repair(room.bob, r)
    assert done["fetched"] == 0 and story.gone == {*missed}
    assert room.b.rejected(r) == set()
    assert room.bob.get_state(r, "m.room.topic") == {"topic": "Lost"}


@_BOTH
def test_an_invite_at_the_end_that_is_here_as_an_outlier_alone(pair: Pair) -> None:
    room = pair.room("11")
    r, bob = room.room_id, room.bob
    guest = room.b.register("guest")
    client = SyncedRoom(r)
    synced = bob.sync()
    client.apply(synced)
    invite = lose_invite(room, guest)
    assert health(bob, r) == {"wrongly_rejected": 2, "gaps": 1}
    assert dry_run(bob, r)["gaps"] == [{"event_id": invite, "cited_by": []}]
    repair(bob, r)
    assert differences(room) == {}
    client.apply(bob.sync(synced["next_batch"]))
    assert client.state["m.room.member", guest.user_id] == invite
    assert bob.members(r, membership=None)[guest.user_id] == "invite"
    assert health(bob, r) == {}
    assert repair(bob, r)["total"] == 0
    guest.join(r, via=room.a.name)
    everywhere(room, guest.send_message(r, "Here I am"))
    assert differences(room) == {}


@_BOTH
def test_what_was_resolved_with_an_event_that_was_rejected_is_resolved_anew(pair: Pair) -> None:
    # The state at the gap is A's, and has the topic that B rejected. The other branch has not.
    room = pair.room("11")
    r, alice = room.room_id, room.alice
    everywhere(room, alice.send_message(r, "All are here"))
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    room.b.stop()
    missed = [alice.send_message(r, f"Missed {number}") for number in range(MISSED)]
    room.a.restart()
    room.b.start()
    here = room.bob.send_message(r, "I am back")
    room.a.wait_for_event(here)
    peer = HostilePeer(room.a, r)
    content = {"msgtype": "m.text", "body": "Where have you been?"}
    there, there_id = peer.forge("m.room.message", alice.user_id, content, prev_events=[missed[-1]])
    for server in (room.a, room.b):
        peer.send(server, there)
    settled(room, [there_id])
    assert Story(room, missed).gone
    assert compare.extremities(room.b, r) == {here, there_id}
    assert topic in room.b.rejected(r)
    assert room.bob.get_state(r, "m.room.topic")["topic"] == "Before the incident"

    assert repair(room.bob, r)["accepted"] == 1
    assert compare.current_state(room.b, r) == compare.current_state(room.a, r)
    assert room.bob.get_state(r, "m.room.topic") == {"topic": "Lost"}
    said = room.bob.send_message(r, "Here I am")
    room.wait_everywhere(said)
    assert compare.states_after(room.b, r)[said] == compare.states_after(room.a, r)[said]


@_BOTH
def test_a_server_that_is_down_leaves_the_rest_to_be_repaired(pair: Pair) -> None:
    story = make_story(pair.room("11"), err=True)
    room = story.room
    r, bob = room.room_id, room.bob
    gone = story.gone
    room.a.stop()
    done = repair(bob, r)
    assert done["accepted"] > 0 and done["fetched"] == 0
    assert room.b.rejected(r) == set()
    assert story.gone == gone
    assert health(bob, r) == {"gaps": 1}
    room.a.start()
    everywhere(room, room.alice.send_message(r, "I am back, too"))

    # B is killed while it waits for an answer, and goes on where it was.
    with paused(room.a):
        repair_id = start(bob, r)
        wait_for(lambda: progress(bob, repair_id)["status"] == "active", what="it to begin")
        room.b.kill()
        room.b.start()
        assert progress(bob, repair_id)["status"] in ("scheduled", "active")
    done = finished(bob, repair_id)
    assert (done["status"], done["error"]) == ("complete", None)
    assert story.gone == set()
    assert health(bob, r) == {}
    assert_whole(room)
