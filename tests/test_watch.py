"""The watch, on real servers: what was rejected is noticed, and told of once for each root."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from synapse_rejection_repair.adapter.watchstore import KEPT
from tests.harness.brake import brake
from tests.harness.client import Client
from tests.harness.federation import Pair, Room, running
from tests.harness.flavours import NEWEST, SLOW_OLDEST_ON_POSTGRES, Flavour
from tests.harness.hostile import HostilePeer
from tests.harness.incident import make_incident, promote
from tests.harness.installs import INSTALLS
from tests.harness.log import ALERTS
from tests.harness.repairing import diagnosis
from tests.harness.sabotage import ERROR
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.openapi import Contract, Judge

RECORD = "rejection_repair_record_seen"
FORGET = "rejection_repair_forget_seen"
ALERTED = "SELECT 1 FROM rejection_repair_alerts WHERE event_id = ?"
CAUSE = "403: " + ERROR
LISTENED_TO = "synapse.handlers.federation_event"
REJECTING = "While checking auth of"
WITHIN = 60.0
"""How soon there has to be an alert, in seconds."""


@dataclass
class World:
    pair: Pair
    admin: Client
    """An admin of B; `alerts_room` is theirs."""
    alerts_room: str
    sender: Client
    brake: Path
    roots: list[str] = field(default_factory=list)
    """The roots that there is to be an alert about, the oldest first."""
    rooms: dict[str, Room] = field(default_factory=dict)
    """The rooms of these roots."""

    def alerts(self, **params: str) -> list[dict[str, Any]]:
        found = Judge(Contract(), self.admin).ok("GET", "/v1/alerts", **params)
        assert found["total"] == len(found["alerts"])
        alerts: list[dict[str, Any]] = found["alerts"]
        return alerts

    def messages(self, root: str) -> list[str]:
        """What the admins were told of a root."""
        return [
            event["content"]["body"]
            for event in self.admin.messages(self.alerts_room)
            if event["sender"] == self.sender.user_id and root in event["content"].get("body", "")
        ]

    def log_lines(self, root: str) -> list[str]:
        lines = self.pair.b.log_text().splitlines()
        return [line for line in lines if f" - {ALERTS} - " in line and root in line]

    def recorded(self, event_id: str) -> Any:
        sql = "SELECT failed_check, error FROM rejection_repair_seen WHERE event_id = ?"
        return self.pair.b.database.query(sql, event_id)

    def metric(self, name: str, label: str = "") -> float:
        text = requests.get(f"{self.pair.b.url}/_synapse/metrics", timeout=30).text
        labels = re.escape(f'{label}server_name="{self.pair.b.name}"')
        (value,) = re.findall(rf"^{name}_total{{{labels}}} (\S+)$", text, re.MULTILINE)
        return float(value)

    def begin_cascade(self, room: Room, followers: int) -> str:
        """Lets B reject an event, and some that cite it; returns the first."""
        room.b.sabotage(type="m.room.power_levels", room_id=room.room_id)
        root = promote(room, room.carol, 50)
        room.b.wait_for_event(root)
        room.b.sabotage_off()
        for number in range(followers):
            room.alice.send_message(room.room_id, f"No. {number}")
        return root


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    flavour: Flavour = request.param
    folder = tmp_path_factory.mktemp("watch")
    database = None
    if flavour.database == "postgres":
        database = request.getfixturevalue("postgres").create_database()
    a = Server(folder / "a", modules=[])
    b = Server(folder / "b", install=INSTALLS[flavour.b], database=database)
    control = folder / "brake.json"
    with running(a, b):
        admin, sender = b.register("admin", admin=True), b.register("alerts")
        room_id = admin.create_room("11", preset="private_chat", invite=[sender.user_id])
        sender.join(room_id)
        b.stop()
        alert = {"room": room_id, "sender": sender.user_id}
        b.load_modules(
            [
                {
                    "module": "synapse_rejection_repair.RejectionRepair",
                    "config": {"alert": alert},
                },
                {"module": "tests.harness.brake.Brake", "config": {"control": str(control)}},
            ]
        )
        _show_metrics(b)
        _silence(b)
        b.start()
        yield World(Pair(a, b), admin, room_id, sender, control)


def _show_metrics(server: Server) -> None:
    file = server.folder / "homeserver.yaml"
    config = yaml.safe_load(file.read_text())
    config["enable_metrics"] = True
    config["listeners"][0]["resources"][0]["names"].append("metrics")
    file.write_text(yaml.safe_dump(config))


def _silence(server: Server) -> None:
    """Lets the log say nothing of rejections, as a configuration may."""
    file = server.folder / "log.yaml"
    config = yaml.safe_load(file.read_text())
    config["loggers"] = {LISTENED_TO: {"level": "ERROR"}}
    file.write_text(yaml.safe_dump(config))


FLAVOURS = [NEWEST, SLOW_OLDEST_ON_POSTGRES]
everywhere = pytest.mark.parametrize("world", FLAVOURS, indirect=True)
newest = pytest.mark.parametrize("world", [NEWEST], indirect=True)


@everywhere
def test_incident(world: World) -> None:
    began = time.time()
    incident = make_incident(world.pair.room("10"))
    room_id, root = incident.room.room_id, incident.x
    wait_for(lambda: world.messages(root), WITHIN, what="a message to the admins")
    assert time.time() - began < WITHIN
    world.roots.append(root)

    # What Synapse had against it is shown beside what it says today.
    (cause,) = diagnosis(world.admin, room_id)["roots"]
    assert (cause["event_id"], cause["verdict"], cause["error"]) == (root, "accept", None)
    recorded = cause["recorded"]
    assert (recorded["check"], recorded["error"]) == ("auth_events", CAUSE)
    assert began * 1000 < recorded["ts"] < time.time() * 1000

    (alert,) = world.alerts(room_id=room_id)
    assert (alert["event_id"], alert["check"], alert["error"]) == (root, "auth_events", CAUSE)
    assert alert["first_ts"] == recorded["ts"] <= alert["alerted_ts"]
    assert 3 <= alert["cascade"] <= len(incident.lost)

    (line,) = world.log_lines(root)
    assert " - ERROR - " in line and room_id in line and CAUSE in line
    assert world.metric("synapse_rejection_repair_alerts") == 1
    seen = world.metric("synapse_rejection_repair_rejections_seen", 'check="auth_events",')
    # Synapse says it twice of what it receives twice at a time.
    assert len(incident.lost) <= seen <= len(incident.lost) + 3

    (message,) = world.messages(root)
    assert room_id in message and CAUSE in message and "rejected wrongly" in message
    assert incident.WORD not in message
    asked, planned = [_run(world, c) for c in message.splitlines() if c.startswith("curl ")]
    assert asked["roots"][0]["event_id"] == root
    assert planned["dry_run"] is True and planned["summary"]["accept"] == len(incident.lost)

    # Every one was noticed, though the log says nothing of them.
    wait_for(lambda: all(map(world.recorded, incident.lost)), what="all to be recorded")
    for follower in incident.lost[1:]:
        ((check, error),) = world.recorded(follower)
        assert check == "auth_events" and "found rejected event" in error
    log = world.pair.b.log_text()
    assert REJECTING not in log and f" - {LISTENED_TO} - " not in log
    assert world.pair.b.errors_in_log() == []


def _run(world: World, command: str) -> Any:
    ran = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "TOKEN": world.admin.access_token},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(ran.stdout)


@everywhere
def test_what_is_rejected_rightly(world: World) -> None:
    room = world.pair.room("11")
    peer = HostilePeer(world.pair.a, room.room_id)
    event, grab = peer.forge(
        "m.room.topic", f"@mallory:{world.pair.a.name}", {"topic": "Mine"}, state_key=""
    )
    peer.send(world.pair.b, event)
    wait_for(lambda: world.recorded(grab), what="a single rejection to be recorded")
    (cause,) = diagnosis(world.admin, room.room_id)["roots"]
    assert (cause["verdict"], cause["check"]) == ("reject", "auth_events")
    # The same words, then as now.
    assert cause["recorded"]["check"] == "auth_events"
    assert cause["recorded"]["error"].endswith(cause["error"].partition(": ")[2])
    assert world.alerts(room_id=room.room_id) == []


@newest
def test_killed_between_the_alert_and_the_message(world: World) -> None:
    room = world.pair.room("12")
    brake(world.brake, {"transaction": "rejection_repair_raise_alerts", "nth": 1, "kill": "after"})
    root = world.begin_cascade(room, 3)
    wait_for(lambda: not world.pair.b.running, what="B to be killed")
    world.pair.b.kill()
    announced = "SELECT announced_ts FROM rejection_repair_alerts WHERE event_id = ?"
    assert world.pair.b.database.query(announced, root) == [(None,)]
    world.pair.b.start()

    wait_for(lambda: world.messages(root), WITHIN, what="a message to the admins")
    wait_for(lambda: world.pair.b.database.value(announced, root), what="it to be noted")
    assert len(world.messages(root)) == len(world.log_lines(root)) == 1
    world.roots.append(root)
    world.rooms[root] = room

    # What was told of before is not told of again, ...
    assert [alert["event_id"] for alert in world.alerts()] == world.roots[::-1]
    for told in world.roots:
        assert len(world.messages(told)) == len(world.log_lines(told)) == 1
    # ... however long the cascade grows.
    last = room.alice.send_message(room.room_id, "And on")
    wait_for(lambda: world.recorded(last), what="another rejection to be recorded")
    assert [alert["event_id"] for alert in world.alerts()] == world.roots[::-1]


@newest
def test_killed_while_causes_are_recorded(world: World) -> None:
    room, b = world.pair.room("11"), world.pair.b
    root = world.begin_cascade(room, 2)
    wait_for(lambda: recorded_of(b, room) == 3, what="the beginning to be recorded")
    for moment in ("before", "after"):
        # The next one makes the alert, ...
        brake(world.brake, {"transaction": RECORD, "nth": 1, "kill": moment})
        last = room.alice.send_message(room.room_id, f"Killed {moment}")
        wait_for(lambda: not b.running, what="B to be killed")
        b.kill()
        assert last in b.rejected(room.room_id)
        assert bool(world.recorded(last)) is (moment == "after")
        assert b.database.query(ALERTED, root) == []
        b.start()
    # ... which is what a process that starts sees to.
    wait_for(lambda: world.messages(root), WITHIN, what="a message to the admins")
    assert len(world.messages(root)) == len(world.log_lines(root)) == 1
    (alert,) = world.alerts(room_id=room.room_id)
    assert (alert["event_id"], alert["cascade"]) == (root, 3)
    world.roots.append(root)
    world.rooms[root] = room


@newest
def test_what_is_rejected_is_known_before_anybody_asks(world: World) -> None:
    label = 'desc="rejection_repair_rejected_rows"'

    def looked_up() -> float:
        text = requests.get(f"{world.pair.b.url}/_synapse/metrics", timeout=30).text
        counts = rf"^synapse_storage_transaction_time_count_total{{[^}}]*{label}[^}}]*}} (\S+)$"
        return sum(map(float, re.findall(counts, text, re.MULTILINE)))

    world.pair.b.restart()
    assert world.alerts(), "nothing new is rejected"
    wait_for(looked_up, what="the rejected events to be looked up")
    before = looked_up()
    rooms = world.admin.repair_api("GET", "/rooms")
    sql = "SELECT COUNT(DISTINCT room_id) FROM events INNER JOIN rejections USING (event_id)"
    assert rooms["total"] == world.pair.b.database.value(sql)
    assert looked_up() == before


def recorded_of(server: Server, room: Room) -> int:
    """How many rejections are recorded of a room."""
    sql = "SELECT COUNT(*) FROM rejection_repair_seen WHERE room_id = ?"
    return int(server.database.value(sql, room.room_id))


@newest
def test_the_table_is_bounded(world: World) -> None:
    database = world.pair.b.database
    room_id, root = world.alerts()[0]["room_id"], world.roots[-1]
    database.execute("UPDATE rejection_repair_seen SET ts = 1 WHERE event_id = ?", root)
    database.execute_many(
        "INSERT INTO rejection_repair_seen (event_id, room_id, error, ts, roots)"
        " VALUES (?, ?, 'Old', 2, '[]')",
        [(f"$old-{number}", room_id) for number in range(KEPT + 500)],
    )
    room, b = world.rooms[root], world.pair.b
    more = recorded_of(b, room)
    for moment in ("before", "after"):
        # They are forgotten after one was recorded.
        brake(world.brake, {"transaction": FORGET, "nth": 1, "kill": moment})
        last = room.alice.send_message(room_id, f"Killed {moment}")
        wait_for(lambda: not b.running, what="B to be killed")
        b.kill()
        more += 1
        assert world.recorded(last)
        assert recorded_of(b, room) == (KEPT + 1 if moment == "after" else more)
        b.start()
    last = room.alice.send_message(room_id, "One more")
    wait_for(lambda: world.recorded(last), what="another rejection to be recorded")
    wait_for(lambda: recorded_of(b, room) == KEPT + 1, what="the oldest to go")
    assert world.recorded(root)


@newest
def test_the_alerts_are_bounded(world: World) -> None:
    room, database = world.pair.room("11"), world.pair.b.database
    database.execute_many(
        "INSERT INTO rejection_repair_alerts"
        " (event_id, room_id, first_ts, alerted_ts, cascade, announced_ts)"
        " VALUES (?, ?, ?, 2, 3, 2)",
        [(f"$alert-{n:04}", room.room_id, n) for n in range(KEPT)],
    )
    root = world.begin_cascade(room, 3)
    kept = "SELECT event_id FROM rejection_repair_alerts WHERE room_id = ? ORDER BY first_ts"

    def alerts() -> list[str]:
        return [event_id for (event_id,) in database.query(kept, room.room_id)]

    wait_for(lambda: root in alerts(), what="another alert")
    assert alerts() == [*(f"$alert-{n:04}" for n in range(1, KEPT)), root]
    last = room.alice.send_message(room.room_id, "And on")
    wait_for(lambda: world.recorded(last), what="another rejection to be recorded")
    assert root in alerts() and "$alert-0000" not in alerts()
    assert world.pair.b.errors_in_log() == []


@newest
def test_one_that_cannot_be_recorded_keeps_none_from_being_noticed(world: World) -> None:
    room, database = world.pair.room("11"), world.pair.b.database
    brake(world.brake, {"transaction": RECORD, "hold": 1})
    root = world.begin_cascade(room, 1)
    last = room.alice.send_message(room.room_id, "Rejected as well")
    room.b.wait_for_event(last)
    database.execute(
        "CREATE TRIGGER refused BEFORE INSERT ON rejection_repair_seen"
        f" WHEN NEW.event_id = '{root}' BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    try:
        brake(world.brake)
        wait_for(lambda: world.recorded(last), what="what came with it to be recorded")
        assert world.recorded(root) == []
    finally:
        database.execute("DROP TRIGGER refused")
    assert f"{root} was rejected is not recorded" in world.pair.b.log_text()
