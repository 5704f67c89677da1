"""A long cascade of rejected events on a real server, as the benchmarks need it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from tests.harness.federation import Pair, Room
from tests.harness.hostile import HostilePeer, JsonDict
from tests.harness.incident import promote
from tests.harness.waiting import wait_for

_AT_A_TIME = 50
"""How many events a federation transaction holds, and wait for Synapse at most.

It drops what waits where more than a hundred do (`prune_staged_events_in_room`).
"""


@dataclass(frozen=True)
class LongCascade:
    """A room in which B has rejected one root and many events behind it."""

    room: Room
    rejected: int
    received_per_second: float
    """How fast B received, and rejected, the events behind the root."""


def make_cascade(pair: Pair, length: int, version: str = "10") -> LongCascade:
    """Lets B reject a root, then sends it many events that cite the root.

    Args:
        pair: The servers.
        length: How many events follow the root; one in a hundred sets the topic.
        version: The room's version.
    """
    room = pair.room(version)
    root = reject_root(room)
    events = chain(room, root, length)
    began = time.monotonic()
    peer = HostilePeer(room.a, room.room_id)
    for start in range(0, length, _AT_A_TIME):
        batch = events[start : start + _AT_A_TIME]
        peer.send(room.b, *(event for event, _ in batch))
        last = batch[-1][1]
        wait_for(partial(_stored, room, last), timeout=60, what="B to store a batch")
    took = time.monotonic() - began
    rejected = len(room.b.rejected(room.room_id))
    assert rejected == length + 1, f"B rejected {rejected} events of {length + 1}"
    return LongCascade(room, rejected, length / took)


def reject_root(room: Room) -> str:
    """Lets B reject a change of the power levels, and returns its id."""
    room.b.sabotage(type="m.room.power_levels", room_id=room.room_id)
    root = promote(room, room.carol, 50)
    room.b.wait_for_event(root)
    room.b.sabotage_off()
    return root


def _stored(room: Room, event_id: str) -> bool:
    return bool(room.b.database.query("SELECT 1 FROM events WHERE event_id = ?", event_id))


def chain(room: Room, root: str, length: int) -> list[tuple[JsonDict, str]]:
    """Makes events that follow each other, all citing the root.

    Args:
        room: The room.
        root: The event that the first one follows.
        length: How many; one in a hundred sets the topic.
    """
    peer = HostilePeer(room.a, room.room_id)
    state = peer.current_state()
    alice = room.alice.user_id
    auth_events = [root, state["m.room.member", alice]]
    if room.version < "12":
        auth_events.append(state["m.room.create", ""])
    depth = room.b.database.value("SELECT depth FROM events WHERE event_id = ?", root)
    events = []
    prev = root
    for number in range(length):
        topic = number % 100 == 99
        body = {"msgtype": "m.text", "body": f"No. {number}"}
        event, prev = peer.forge(
            "m.room.topic" if topic else "m.room.message",
            alice,
            {"topic": f"Topic {number}"} if topic else body,
            state_key="" if topic else None,
            prev_events=[prev],
            auth_events=auth_events,
            depth=depth + number + 1,
        )
        events.append((event, prev))
    return events
