"""What other servers say of an event: it informs, and changes nothing, whatever they say."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import compare
from tests.harness.client import Client, MatrixError, quoted
from tests.harness.federation import Pair, Room, running
from tests.harness.incident import promote
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.openapi import Contract, Judge


@dataclass
class World:
    """A room of three servers: A holds the lost event, B and C have rejected it."""

    room: Room
    c: Server
    liar: Path
    lost: str
    known: str
    judge: Judge

    def ask(self, event_id: str, **body: Any) -> Any:
        path = "/v1/events" + quoted(event_id, "peers")
        answer = self.judge.ok("POST", path, body)
        assert (answer["event_id"], answer["room_id"]) == (event_id, self.room.room_id)
        return answer["peers"]

    def tell(self, **answer: Any) -> None:
        self.liar.write_text(json.dumps(answer))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("peers")
    liar = folder / "liar.json"
    a = Server(
        folder / "a",
        modules=[{"module": "tests.harness.liar.Liar", "config": {"control": str(liar)}}],
    )
    b, c = Server(folder / "b"), Server(folder / "c")
    with running(a, b, c):
        room = Pair(a, b).room("11")
        caroline: Client = c.register("caroline")
        caroline.join(room.room_id, via=a.name)
        wait_for(lambda: caroline.user_id in room.bob.members(room.room_id), what="C's join")
        known = room.alice.send_message(room.room_id, "Everybody has this")
        for server in (b, c):
            server.wait_for_event(known)
            server.sabotage(type="m.room.power_levels", room_id=room.room_id)
        lost = promote(room, room.carol, 50)
        for server in (b, c):
            server.wait_for_event(lost)
            server.sabotage_off()
        yield World(room, c, liar, lost, known, Judge(Contract(tags={"Understand"}), room.bob))


def test_who_holds_it(world: World) -> None:
    a, c = world.room.a.name, world.c.name
    asked = world.ask(world.lost)
    assert asked["servers"] == [
        {"server": a, "answer": "holds", "error": None},
        {"server": c, "answer": "does_not_hold", "error": None},
    ]
    assert (asked["holds"], asked["does_not_hold"], asked["no_answer"]) == (1, 1, 0)
    assert (asked["state_differences"], asked["unknown_events"]) == ([], 0)
    assert world.ask(world.known)["holds"] == 2
    assert world.ask(world.lost, peers=1)["servers"] == asked["servers"][:1]
    assert world.ask(world.lost, peers=0)["servers"] == []

    where = "/v1/rooms" + quoted(world.room.room_id, "diagnosis")
    (root,) = world.judge.ok("GET", where, peers="2")["roots"]
    assert (root["event_id"], root["peers"]) == (world.lost, asked)
    (root,) = world.judge.ok("GET", where)["roots"]
    assert root["peers"] is None


def test_where_the_state_differs(world: World) -> None:
    alice = world.room.alice.user_id
    sql = "SELECT event_id FROM state_events WHERE room_id = ? AND type = ? AND state_key = ?"
    database = world.room.b.database
    create = database.value(sql, world.room.room_id, "m.room.create", "")
    member = database.value(sql, world.room.room_id, "m.room.member", alice)
    stranger = "$" + "a" * 43
    try:
        world.tell(body={"pdu_ids": [create, member, stranger], "auth_chain_ids": []})
        asked = world.ask(world.lost, peers=1)
    finally:
        world.tell()
    assert asked["unknown_events"] == 1
    differing = {(d["type"], d["state_key"]): d for d in asked["state_differences"]}
    assert ("m.room.create", "") not in differing and ("m.room.member", alice) not in differing
    assert differing["m.room.power_levels", ""]["theirs"] is None
    assert differing["m.room.power_levels", ""]["servers"] == [world.room.a.name]


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"status": 500}, "It cannot be reached, or fails"),
        ({"status": 403}, "It answered with the status 403"),
        ({"body": {"pdu_ids": "all of them"}}, "Its answer makes no sense"),
        ({"body": {}}, "Its answer makes no sense"),
        ({"body": {"pdu_ids": [1, None]}}, "Its answer makes no sense"),
        ({"delay": 25}, "No answer within 10 seconds"),
    ],
)
def test_peers_that_lie_or_fail(world: World, told: dict[str, Any], error: str) -> None:
    before = compare.database_facets(world.room, world.room.b)
    began = time.monotonic()
    try:
        world.tell(**told)
        asked = world.ask(world.lost, peers=1)
    finally:
        world.tell()
    assert time.monotonic() - began < 20
    (answer,) = asked["servers"]
    assert answer == {"server": world.room.a.name, "answer": "no_answer", "error": error}
    assert asked["no_answer"] == 1
    assert compare.database_facets(world.room, world.room.b) == before
    # Synapse remembers who failed; here the next test asks the same server again.
    world.room.b.stop()
    world.room.b.database.execute("DELETE FROM destinations")
    world.room.b.start()


def test_what_makes_no_sense(world: World) -> None:
    path = "/v1/events" + quoted(world.lost, "peers")
    for body in ({"peers": -1}, {"peers": 21}, {"peers": "2"}, {"peers": True}, {"peer": 1}):
        world.judge.refused(400, "M_INVALID_PARAM", "POST", path, body)
    unknown = "/v1/events" + quoted("$unknown", "peers")
    assert "$unknown" in world.judge.refused(404, "M_NOT_FOUND", "POST", unknown, {})
    world.judge.refused(400, "M_INVALID_PARAM", "POST", "/v1/events/nonsense/peers", {})
    with pytest.raises(MatrixError) as error:
        world.room.carol.repair_api("POST", "/events" + quoted(world.lost, "peers"), {})
    assert error.value.status == 403
