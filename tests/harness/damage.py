"""A large incident, with all that makes a repair hard, on two servers that receive the same."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tests.harness import compare
from tests.harness.client import JsonDict
from tests.harness.federation import Room
from tests.harness.hostile import HostilePeer
from tests.harness.incident import promote
from tests.harness.repairing import dry_run, health
from tests.harness.waiting import wait_for

_AT_A_TIME = 50


@dataclass
class Damage:
    """A room in which B has rejected two roots and everything behind one of them."""

    room: Room
    topic: str = ""
    """A topic that B rejected and that nothing cites: B accepted what follows it."""
    stale: list[str] = field(default_factory=list)
    """What follows the topic and was accepted, with forks, merges and state of its own."""
    x: str = ""
    """The power levels that B rejected, and that all later events cite."""
    cascade: list[str] = field(default_factory=list)
    """What cites X."""

    @property
    def lost(self) -> set[str]:
        """All that B rejected."""
        return {self.topic, self.x, *self.cascade}

    def wait_until_half_done(self) -> None:
        """Waits until B has accepted something of it: no answer tells as soon as the database."""
        room = self.room
        wait_for(lambda: room.b.rejected(room.room_id) < self.lost, what="the repair to get going")


def make_damage(room: Room, length: int = 120) -> Damage:
    """Makes B err twice, and lets both servers receive many events in a hurry.

    Args:
        room: The room, which is whole so far.
        length: About how many events follow X. Some set state; there is a fork with conflicting
            state, and a merge.
    """
    r, alice = room.room_id, room.alice
    damage = Damage(room)
    room.b.sabotage(type="m.room.topic", room_id=r)
    damage.topic = alice.send_state(r, "m.room.topic", {"topic": "Uncited"})
    room.b.wait_for_event(damage.topic)
    room.b.sabotage_off()

    writer = _Writer(room)
    start = alice.send_message(r, "Follows the uncited topic")
    room.wait_everywhere(start)
    tips = [writer.message([start]), writer.state("m.room.name", "A", [start])]
    tips = [writer.state("test.one", "1", tips), writer.message(tips)]
    writer.message(tips)
    damage.stale = [start, *writer.send()]

    room.b.sabotage(type="m.room.power_levels", room_id=r)
    damage.x = promote(room, room.carol, 50)
    room.b.wait_for_event(damage.x)
    room.b.sabotage_off()

    writer = _Writer(room)
    tip = writer.run(damage.x, length // 2)
    left = writer.run(writer.state("m.room.topic", "Left", [tip]), length // 8)
    right = writer.run(writer.state("test.two", "Right", [tip]), length // 8)
    left = writer.state("test.three", "Left", [left])
    right = writer.state("m.room.topic", "Right", [right])
    right = writer.state("test.three", "Right", [right])
    writer.run(writer.message([left, right]), length // 4)
    damage.cascade = writer.send()
    last = alice.send_message(r, "The last of the lost")
    room.b.wait_for_event(last)
    damage.cascade.append(last)
    assert room.b.rejected(r) == damage.lost, "B rejected too much, or too little"
    assert room.a.rejected(r) == set()
    return damage


class _Writer:
    """Forges events of alice's that follow each other, all on one state of authority."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._peer = HostilePeer(room.a, room.room_id)
        state = self._peer.current_state()
        self._auth = [
            state["m.room.power_levels", ""],
            state["m.room.member", room.alice.user_id],
        ]
        if room.version < "12":
            self._auth.append(state["m.room.create", ""])
        sql = "SELECT MAX(depth) FROM events WHERE room_id = ?"
        self._depth: int = room.a.database.value(sql, room.room_id)
        self._events: list[tuple[JsonDict, str]] = []

    def message(self, prevs: Sequence[str]) -> str:
        content = {"msgtype": "m.text", "body": f"No. {len(self._events)} in a hurry"}
        return self._forge("m.room.message", content, None, prevs)

    def state(self, type: str, value: str, prevs: Sequence[str]) -> str:
        return self._forge(type, {type.rpartition(".")[2]: value}, "", prevs)

    def run(self, prev: str, length: int) -> str:
        """Messages, one in twenty of which is a state event."""
        for number in range(length):
            if number % 20 == 19:
                prev = self.state("test.run", str(len(self._events)), [prev])
            else:
                prev = self.message([prev])
        return prev

    def _forge(
        self, type: str, content: JsonDict, state_key: str | None, prevs: Sequence[str]
    ) -> str:
        self._depth += 1
        made = self._peer.forge(
            type,
            self._room.alice.user_id,
            content,
            state_key=state_key,
            prev_events=prevs,
            auth_events=self._auth,
            depth=self._depth,
        )
        self._events.append(made)
        return made[1]

    def send(self) -> list[str]:
        """Sends them to both servers, and returns their ids once they are stored."""
        servers = (self._room.a, self._room.b)
        for start in range(0, len(self._events), _AT_A_TIME):
            batch = self._events[start : start + _AT_A_TIME]
            for server in servers:
                self._peer.send(server, *(event for event, _ in batch))
            for server in servers:
                server.wait_for_event(batch[-1][1], timeout=60)
        sent = [event_id for _, event_id in self._events]
        self._events = []
        return sent


def assert_whole(room: Room, rejected: Collection[str] = ()) -> None:
    """Asserts that B is as if it had never erred, and that nothing is left to do.

    Args:
        room: The room.
        rejected: What B rejects for good reason, and A does not have.
    """
    on_a, on_b = (compare.database_facets(room, server) for server in (room.a, room.b))
    on_b["rejected"] -= {*rejected}
    differ = {n: compare.describe(on_a[n], on_b[n]) for n in on_a if on_a[n] != on_b[n]}
    assert differ == {}, differ
    assert compare.inconsistencies(room.b, room.room_id) == {}
    shared = compare.shared_events(room)
    shown = [e["event_id"] for e in room.bob.messages(room.room_id) if e["event_id"] in shared]
    assert len(shown) == len({*shown}), "an event is shown twice"
    assert {*shown} == {
        e["event_id"] for e in room.alice.messages(room.room_id) if e["event_id"] in shared
    }
    assert health(room.bob, room.room_id) == ({"rejected": len(rejected)} if rejected else {})
    assert dry_run(room.bob, room.room_id)["summary"] == {
        "accept": 0,
        "reject": len(rejected),
        "let_through": 0,
        "gaps": 0,
        "restate": 0,
        "state_changes": [],
    }
