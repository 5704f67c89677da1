"""Repairs that nobody asked for, on real servers: only where nothing is left to decide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.harness import compare
from tests.harness.brake import brake
from tests.harness.client import Client
from tests.harness.federation import Pair, Room, running
from tests.harness.hostile import HostilePeer
from tests.harness.incident import promote
from tests.harness.losing import lose_state
from tests.harness.repairing import health
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.openapi import Contract, Judge

WITHIN = 60.0
MOST = 10


@dataclass
class World:
    """B repairs by itself; A and C are in its rooms."""

    pair: Pair
    c: Server
    caroline: Client
    admin: Client
    alerts_room: str
    brake: Path

    def room(self) -> Room:
        room = self.pair.room("11")
        self.caroline.join(room.room_id, via=self.pair.a.name)
        last = room.alice.send_message(room.room_id, "Everybody has this")
        self.c.wait_for_event(last)
        room.wait_everywhere(last)
        return room

    def begin(self, room: Room, followers: int, *others: Server) -> str:
        """Lets B, and maybe others, reject a root and what cites it; returns the root."""
        erring = (room.b, *others)
        for server in erring:
            server.sabotage(type="m.room.power_levels", room_id=room.room_id)
        root = promote(room, room.carol, 50)
        for server in (room.b, self.c):
            server.wait_for_event(root)
        for server in erring:
            server.sabotage_off()
        for number in range(followers):
            room.alice.send_message(room.room_id, f"No. {number}")
        return root

    def told(self, root: str) -> str:
        """What the admins are told of a root."""

        def found() -> str | None:
            for event in self.admin.messages(self.alerts_room):
                if root in event["content"].get("body", ""):
                    assert event["sender"] == self.admin.user_id, "who may do most"
                    return str(event["content"]["body"])
            return None

        return wait_for(found, WITHIN, what="a message to the admins") or ""

    def alert(self, room: Room) -> Any:
        judge = Judge(Contract(), self.admin)
        (alert,) = judge.ok("GET", "/v1/alerts", room_id=room.room_id)["alerts"]
        return alert

    def repairs(self, room: Room) -> list[Any]:
        judge = Judge(Contract(), self.admin)
        found = judge.ok("GET", "/v1/repairs", room_id=room.room_id)["repairs"]
        assert all(repair["automatic"] for repair in found)
        return list(found)

    def metric(self, outcome: str) -> float:
        text = requests.get(f"{self.pair.b.url}/_synapse/metrics", timeout=30).text
        name = "synapse_rejection_repair_auto_repairs_total"
        found = re.findall(rf'^{name}{{outcome="{outcome}",[^}}]*}} (\S+)$', text, re.MULTILINE)
        return float(found[0]) if found else 0.0

    def waits(self, room: Room, root: str) -> str:
        """Asserts that nothing was repaired; returns why, in the admins' words."""
        before = self.metric("waits")
        (line,) = [line for line in self.told(root).splitlines() if "waits for you" in line]
        assert self.repairs(room) == [] and self.alert(room)["repair_id"] is None
        assert root in room.b.rejected(room.room_id)
        assert before <= self.metric("waits") >= 1
        return line


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("healing")
    control = folder / "brake.json"
    a, c = Server(folder / "a", modules=[]), Server(folder / "c", modules=[])
    # What many a server does without, and the module is to do without as well.
    without = {"enable_search": False, "stats": {"enabled": False}}
    b = Server(folder / "b", config={"enable_metrics": True, **without})
    with running(a, b, c):
        admin, other = b.register("admin", admin=True), b.register("aaron")
        room_id = admin.create_room("11", preset="private_chat", invite=[other.user_id])
        other.join(room_id)
        b.stop()
        config = {
            "alert": {"room": room_id},
            "auto_repair": {"max_events": MOST},
        }
        b.load_modules(
            [
                {"module": "tests.harness.brake.Brake", "config": {"control": str(control)}},
                {"module": "synapse_rejection_repair.RejectionRepair", "config": config},
            ]
        )
        b.start()
        yield World(Pair(a, b), c, c.register("caroline"), admin, room_id, control)


def test_what_others_hold_is_repaired_by_itself(world: World) -> None:
    room = world.room()
    root = world.begin(room, 4)
    told = world.told(root)
    (repair,) = world.repairs(room)
    assert repair["status"] == "complete" and repair["accepted"] >= 4
    wait_for(lambda: not room.b.rejected(room.room_id), what="all of it to be repaired")
    assert f"repaired without you: repair {repair['repair_id']} is complete" in told
    assert world.alert(room)["repair_id"] == repair["repair_id"]
    assert world.metric("begun") == 1
    assert compare.current_state(room.b, room.room_id) == compare.current_state(
        room.a, room.room_id
    )
    last = room.alice.send_message(room.room_id, "And on")
    room.wait_everywhere(last)
    assert room.b.rejected(room.room_id) == set()
    assert health(world.admin, room.room_id) == {}


def test_what_others_do_not_hold_waits(world: World) -> None:
    room = world.room()
    named = room.alice.send_state(room.room_id, "m.room.name", {"name": "The Den"})
    room.wait_everywhere(named)
    world.c.wait_for_event(named)
    root = world.begin(room, 3, world.c)
    assert "1 other servers hold it, and 1 do not" in world.waits(room, root)
    rooms = world.admin.repair_api("GET", "/rooms")["rooms"]
    assert [row["name"] for row in rooms if row["room_id"] == room.room_id] == ["The Den"]


def test_another_state_before_it_elsewhere_waits(world: World) -> None:
    # Nothing cites a topic: nobody was told that it is lost.
    room = world.room()
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    root = world.begin(room, 3)
    assert "2 of the 2 other servers that hold it have another" in world.waits(room, root)
    assert topic in room.b.rejected(room.room_id)


def test_a_cascade_that_is_too_big_waits(world: World) -> None:
    room = world.room()
    # The alert is not to be faster than the cascade.
    brake(world.brake, {"transaction": "rejection_repair_raise_alerts", "seconds": 3})
    try:
        root = world.begin(room, MOST)
        assert f"would touch {MOST + 1} events" in world.waits(room, root)
    finally:
        brake(world.brake)


def test_what_is_rejected_rightly_waits(world: World) -> None:
    room = world.room()
    peer = HostilePeer(room.a, room.room_id)
    mallory = f"@mallory:{room.a.name}"
    grab, root = peer.forge("m.room.power_levels", mallory, {"users": {mallory: 100}}, state_key="")
    cited = [i for i in grab["auth_events"] if i != root]
    events = [grab]
    for number in range(3):
        content = {"msgtype": "m.text", "body": f"No. {number}"}
        auth = [*cited, root]
        event, _ = peer.forge(
            "m.room.message", mallory, content, prev_events=[root], auth_events=auth, depth=100
        )
        events.append(event)
    peer.send(room.b, *events)
    assert "does not pass the checks now" in world.waits(room, root)


def test_killed_before_the_alert_knows_of_its_repair(world: World) -> None:
    room, b = world.room(), world.pair.b
    rule = {"transaction": "rejection_repair_alert_repaired", "nth": 1, "kill": "before"}
    brake(world.brake, rule)
    root = world.begin(room, 3)
    wait_for(lambda: not b.running, WITHIN, what="B to be killed")
    b.kill()
    b.start()
    told = world.told(root)
    (repair,) = world.repairs(room)
    assert repair["status"] == "complete"
    assert world.alert(room)["repair_id"] == repair["repair_id"] and repair["repair_id"] in told
    wait_for(lambda: not b.rejected(room.room_id), what="all of it to be repaired")
    assert b.errors_in_log() == []
