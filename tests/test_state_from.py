"""Where this server's own state is wrong: it takes the state before a root from another server."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import compare
from tests.harness.brake import brake
from tests.harness.client import Client, JsonDict, MatrixError, quoted
from tests.harness.config import EXAMPLE
from tests.harness.federation import Pair, Room, running
from tests.harness.flavours import NEWEST, POSTGRES, Flavour
from tests.harness.hostile import HostilePeer
from tests.harness.incident import promote
from tests.harness.repairing import dry_run, finished, health, repair, start
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.openapi import Contract, Judge

# A server that has lied is asked again at once, and in seconds it is known that it fails.
IMPATIENT = {
    "federation": {
        "destination_min_retry_interval": 1,
        "destination_max_retry_interval": 1,
        "max_short_retries": 0,
    }
}
# The last is what PostgreSQL holds some others to.
OWN_ROWS = (
    "event_json",
    "state_events",
    "event_auth",
    "event_edges",
    "event_to_state_groups",
    "current_state_events",
    "event_auth_chains",
    "events",
)
WRITTEN = (
    *OWN_ROWS,
    "event_backward_extremities",
    "event_failed_pull_attempts",
    "event_forward_extremities",
    "rejection_repair_jobs",
    "rejection_repair_journal",
    "rejection_repair_states",
    "rejections",
    "room_memberships",
    "state_groups",
    "state_groups_state",
)


@dataclass
class World:
    """A room of three servers. A erred in nothing.

    B has lost two entries of the room's state, as a faulty tool that compresses state groups
    leaves it, and with one of them the event. So it rejects X, of whose sender it knows no
    more, and all that cites X. C has rejected X, too.
    """

    room: Room
    c: Server
    dora: Client
    """Of A; B has forgotten that she joined."""
    other: Room
    liar: Path
    brake: Path
    lost: dict[str, str]
    """The lost entries of the state, by type."""
    x: str
    cascade: list[str]
    judge: Judge

    @property
    def path(self) -> str:
        return "/v1/rooms" + quoted(self.room.room_id, "repair")

    def plan(self, **body: Any) -> Any:
        return self.judge.ok("POST", self.path, {"state_from": self.room.a.name, **body})

    def refused(self, status: int, errcode: str, **body: Any) -> str:
        body = {"state_from": self.room.a.name, **body}
        return self.judge.refused(status, errcode, "POST", self.path, body)

    def tell(self, **answer: Any) -> None:
        draft = self.liar.with_suffix(".new")
        draft.write_text(json.dumps(answer))
        draft.replace(self.liar)

    def honest_answer(self) -> JsonDict:
        peer = HostilePeer(self.room.b, self.room.room_id)
        query = "?event_id=" + quoted(self.x)[1:]
        path = "/_matrix/federation/v1" + quoted("state_ids", self.room.room_id) + query
        return peer.request(self.room.a, "GET", path)


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    flavour: Flavour = request.param
    database = None
    if flavour.database == "postgres":
        database = request.getfixturevalue("postgres").create_database()
    folder = tmp_path_factory.mktemp("state_from")
    liar, control = folder / "liar.json", folder / "brake.json"
    a = Server(
        folder / "a",
        modules=[{"module": "tests.harness.liar.Liar", "config": {"control": str(liar)}}],
    )
    b = Server(
        folder / "b",
        modules=[
            {"module": "tests.harness.brake.Brake", "config": {"control": str(control)}},
            *yaml.safe_load(EXAMPLE.read_text())["modules"],
        ],
        database=database,
        config=IMPATIENT,
    )
    c = Server(folder / "c", modules=[])
    with running(a, b, c):
        pair = Pair(a, b)
        room, other = pair.room("10"), pair.room("11")
        r = room.room_id
        caroline, dora = c.register("caroline"), a.register("dora")
        caroline.join(r, via=a.name)
        dora.join(r)
        promote(room, dora, 100)
        lost = {"test.lost": room.alice.send_state(r, "test.lost", {"lost": True})}
        last = room.alice.send_message(r, "Everybody has this")
        for server in (b, c):
            server.wait_for_event(last)
        lost["m.room.member"] = a.database.value(
            "SELECT event_id FROM current_state_events WHERE room_id = ? AND state_key = ?",
            r,
            dora.user_id,
        )
        _forget(b, r, lost)

        c.sabotage(type="m.room.power_levels", room_id=r)
        levels = copy.deepcopy(dora.get_state(r, "m.room.power_levels"))
        levels["users"][room.carol.user_id] = 50
        x = dora.send_state(r, "m.room.power_levels", levels)
        for server in (b, c):
            server.wait_for_event(x)
        c.sabotage_off()
        cascade = [room.alice.send_message(r, f"After X: {number}") for number in range(3)]
        reply = room.bob.send_message(r, "Is anybody there?")
        room.wait_everywhere(reply)
        cascade.append(room.alice.send_state(r, "m.room.topic", {"topic": "After X"}))
        for server, event_id in itertools.product((b, c), cascade):
            server.wait_for_event(event_id)
        assert b.rejected(r) == {x, *cascade} <= c.rejected(r) and a.rejected(r) == set()
        judge = Judge(Contract(tags={"Repair"}), room.bob)
        yield World(room, c, dora, other, liar, control, lost, x, cascade, judge)


def _forget(b: Server, room_id: str, lost: dict[str, str]) -> None:
    b.stop()
    for event_id in lost.values():
        b.database.execute("DELETE FROM state_groups_state WHERE event_id = ?", event_id)
        b.database.execute("DELETE FROM current_state_events WHERE event_id = ?", event_id)
    for table in OWN_ROWS:
        b.database.execute(f"DELETE FROM {table} WHERE event_id = ?", lost["test.lost"])
    b.start()


def _written(world: World) -> dict[str, str]:
    """All that the server has of rooms, and of jobs."""
    digests = compare.digests(world.room.b)
    return {table: digests[table] for table in WRITTEN}


newest = pytest.mark.parametrize("world", [NEWEST], indirect=True)
both = pytest.mark.parametrize("world", [NEWEST, POSTGRES], indirect=True)


@newest
def test_without_it_the_root_fails(world: World) -> None:
    plan = world.judge.ok("POST", world.path, {})
    assert (plan["summary"]["accept"], plan["states"]) == (0, [])
    root = plan["events"][0]
    assert (root["event_id"], root["verdict"]) == (world.x, "reject")
    assert root["check"] == "state_before" and "not in room" in root["error"]


@newest
def test_the_dry_run_shows_the_difference_and_writes_nothing(world: World) -> None:
    before = _written(world)
    plan = world.plan()
    assert (plan["summary"]["accept"], plan["summary"]["reject"]) == (1 + len(world.cascade), 0)
    (state,) = plan["states"]
    assert (state["event_id"], state["server"]) == (world.x, world.room.a.name)
    assert {d["type"]: (d["ours"], d["theirs"]) for d in state["state_differences"]} == {
        type: (None, event_id) for type, event_id in world.lost.items()
    }
    changed = {c["type"]: c["to"] for c in plan["summary"]["state_changes"]}
    assert changed == {
        **world.lost,
        "m.room.power_levels": world.x,
        "m.room.topic": world.cascade[-1],
    }
    assert plan["fingerprint"] != world.judge.ok("POST", world.path, {})["fingerprint"]
    assert world.plan(event_ids=[world.x])["states"] == plan["states"]
    assert _written(world) == before


@newest
def test_servers_that_cannot_be_asked(world: World) -> None:
    for name in ("", "no server", "https://a", 7, None, ["a"], "a" * 300, "127.0.0.1:x", "%"):
        world.refused(400, "M_INVALID_PARAM", state_from=name)
    for dry in (True, False):
        for name, says in (
            (world.room.b.name, "another server"),
            ("stranger.example.org", "never in the room"),
            ("[::1]:8448", "never in the room"),
        ):
            with pytest.raises(MatrixError, match=says) as bad:
                dry_run(world.room.bob, world.room.room_id, state_from=name, dry_run=dry)
            assert (bad.value.status, bad.value.errcode) == (400, "M_INVALID_PARAM")
        # It has rejected X as well.
        error = world.refused(409, "M_CONFLICT", state_from=world.c.name, dry_run=dry)
        assert world.c.name in error and world.x in error


@newest
def test_servers_that_lie_or_fail(world: World) -> None:
    before = _written(world)
    honest = world.honest_answer()["pdu_ids"]
    peer = HostilePeer(world.room.a, world.room.room_id)
    alice, mallory = world.room.alice.user_id, f"@mallory:{world.room.a.name}"
    known = world.room.b.database.value(
        "SELECT event_id FROM events WHERE room_id = ? AND type = 'm.room.message' LIMIT 1",
        world.room.room_id,
    )
    strange = world.other.b.database.value(
        "SELECT event_id FROM state_events WHERE room_id = ? AND type = 'm.room.name'",
        world.other.room_id,
    )
    # What they cite is accepted here.
    marks = ",".join("?" for _ in honest)
    sql = f"SELECT type, state_key, event_id FROM state_events WHERE event_id IN ({marks})"
    state = {(t, key): i for t, key, i in world.room.a.database.query(sql, *honest)}
    create = state["m.room.create", ""]
    auth = [create, state["m.room.power_levels", ""], state["m.room.member", alice]]
    good, good_id = peer.forge("test.more", alice, {}, state_key="", auth_events=auth)
    message, message_id = peer.forge("m.room.message", alice, {"body": "Hi"}, auth_events=auth)
    refused, refused_id = peer.forge("test.more", mallory, {}, state_key="", auth_events=auth)
    cites_x, cites_x_id = peer.forge("test.more", alice, {}, state_key="")
    away, away_id = HostilePeer(world.room.a, world.other.room_id).forge(
        "test.more", world.other.alice.user_id, {}, state_key=""
    )
    unsigned = {**good, "signatures": {world.room.a.name: {"ed25519:a_0": "AAAA"}}}
    tampered = {**good, "content": {"tampered": True}}
    second, second_id = peer.forge("m.room.topic", alice, {}, state_key="", auth_events=auth)

    def with_event(event_id: str, event: object) -> JsonDict:
        return {"body": {"pdu_ids": [*honest, event_id]}, "events": {event_id: event}}

    for told, says in (
        ({"status": 500}, "cannot be reached"),
        ({"status": 403}, "status 403"),
        ({"delay": 15}, "within 10 seconds"),
        ({"body": {"pdu_ids": "all"}}, "no sense"),
        ({"body": {"pdu_ids": []}}, "m.room.create"),
        ({"body": {"pdu_ids": [i for i in honest if i != create]}}, "m.room.create"),
        ({"body": {"pdu_ids": [*honest, strange]}}, f"{strange}: it is of another room"),
        ({"body": {"pdu_ids": [*honest, known]}}, f"{known}: it is no state event"),
        (with_event("$" + "a" * 43, None), "nor given"),
        (with_event("$" + "a" * 43, good), "not given as what it is"),
        (with_event(good_id, "nonsense"), "not given as what it is"),
        (with_event(away_id, away), f"{away_id}: it is of another room"),
        (with_event(message_id, message), f"{message_id}: it is no state event"),
        (with_event(good_id, unsigned), good_id),
        (with_event(good_id, tampered), f"{good_id}: The event's content is not"),
        (with_event(refused_id, refused), f"{refused_id}: "),
        (with_event(cites_x_id, cites_x), f"found rejected event {world.x}"),
        (with_event(second_id, second), "it sets the same as"),
        ({"events": {world.lost["test.lost"]: None}}, world.lost["test.lost"]),
    ):
        world.tell(**told)
        for dry in (True, False) if "events" in told else (True,):
            error = world.refused(409, "M_CONFLICT", dry_run=dry)
            assert says in error and world.room.a.name in error, (told, error)
            assert "script" not in error
    world.tell(**with_event(good_id, good))
    assert world.plan()["states"][0]["differences_total"] == 3
    # A state that does not help is not taken, and the dry run says why.
    world.tell(body={"pdu_ids": [i for i in honest if i != world.lost["m.room.member"]]})
    plan = world.plan()
    assert (plan["summary"]["accept"], plan["states"]) == (0, [])
    assert world.room.a.name in plan["events"][0]["error"]
    world.tell()
    assert _written(world) == before
    assert world.room.b.rejected(world.room.room_id) == {world.x, *world.cascade}


@newest
def test_another_answer_than_in_the_dry_run(world: World) -> None:
    plan = world.plan()["fingerprint"]
    honest = world.honest_answer()["pdu_ids"]
    world.tell(body={"pdu_ids": [i for i in honest if i != world.lost["test.lost"]]})
    try:
        for dry in (True, False):
            error = world.refused(409, "M_CONFLICT", plan=plan, dry_run=dry)
            assert f"{world.room.a.name} gives another state" in error
    finally:
        world.tell()
    assert world.plan(plan=plan)["fingerprint"] == plan
    assert world.room.b.rejected(world.room.room_id) == {world.x, *world.cascade}


@both
def test_killed_and_left_alone_by_the_server(world: World) -> None:
    b, admin, room_id = world.room.b, world.room.bob, world.room.room_id
    kept = "SELECT outlier FROM events WHERE event_id = ?"
    body = {"state_from": world.room.a.name, "plan": world.plan()["fingerprint"]}
    kill = {"transaction": "persist_events", "kill": "before"}

    # Killed before what is missing is here, and then it is not given any more.
    brake(world.brake, {**kill, "nth": 1})
    repair_id = start(admin, room_id, **body)
    wait_for(lambda: not b.running, what="B to be killed")
    b.kill()
    world.tell(events={world.lost["test.lost"]: None})
    b.start()
    found = finished(admin, repair_id)
    assert found["status"] == "failed" and world.lost["test.lost"] in found["error"]
    assert found["state_from"] == world.room.a.name
    assert b.rejected(room_id) == {world.x, *world.cascade}
    assert b.database.query(kept, world.lost["test.lost"]) == []
    world.tell()

    # Killed when it is here, and then the server says nothing at all.
    brake(world.brake, {**kill, "nth": 2})
    repair_id = start(admin, room_id, **body)
    wait_for(lambda: not b.running, what="B to be killed")
    b.kill()
    assert b.database.query(kept, world.lost["test.lost"]) == [(1,)]
    world.tell(status=500, events={world.lost["test.lost"]: None})
    b.start()
    found = finished(admin, repair_id)
    world.tell()
    assert (found["status"], found["error"]) == ("complete", None)
    assert (found["accepted"], found["rejected"]) == (1 + len(world.cascade), 0)


@both
def test_undone_and_done_again(world: World) -> None:
    admin, room_id, b = world.room.bob, world.room.room_id, world.room.b
    done = admin.repair_api("GET", "/repairs")["repairs"][0]["repair_id"]
    undo = admin.repair_api("POST", f"/repairs/{done}/undo", {"dry_run": False})["repair_id"]
    assert finished(admin, undo)["status"] == "complete"
    assert b.rejected(room_id) == {world.x, *world.cascade}
    assert dry_run(admin, room_id)["summary"]["accept"] == 0
    # What it took with it is still here, and nobody has to be asked for it.
    world.tell(events={world.lost["test.lost"]: None})
    found = repair(admin, room_id, state_from=world.room.a.name)
    world.tell()
    assert (found["accepted"], found["rejected"]) == (1 + len(world.cascade), 0)


@both
def test_the_room_is_whole_and_stays_so(world: World) -> None:
    room, room_id = world.room, world.room.room_id
    assert room.b.rejected(room_id) == set()
    assert compare.current_state(room.b, room_id) == compare.current_state(room.a, room_id)
    on_a, on_b = (compare.states_after(server, room_id) for server in (room.a, room.b))
    assert {i: on_b[i] for i in (world.x, *world.cascade)} == {
        i: on_a[i] for i in (world.x, *world.cascade)
    }
    borrowed = "SELECT event_id, server FROM rejection_repair_states"
    assert room.b.database.query(borrowed) == [(world.x, room.a.name)]

    # Nothing takes what does not follow from the events before it for an error.
    assert "stale_state" not in health(room.bob, room_id)
    for body in ({}, {"state_from": room.a.name}):
        plan = dry_run(room.bob, room_id, **body)
        assert not any(plan["summary"].values())
    assert repair(room.bob, room_id)["accepted"] == 0
    assert compare.current_state(room.b, room_id) == compare.current_state(room.a, room_id)

    said = [world.dora.send_message(room_id, "Here I am"), room.carol.send_message(room_id, "Hi")]
    for event_id in said:
        room.wait_everywhere(event_id)
    assert room.b.rejected(room_id) == room.a.rejected(room_id) == set()
    assert room.b.errors_in_log() == []
