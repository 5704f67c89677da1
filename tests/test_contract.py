"""Every answer of every endpoint, on real servers, against the OpenAPI document."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from openapi_spec_validator import validate

from synapse_rejection_repair import rest
from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.repair import RepairProgress, RepairRequest
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.rest import jobs
from tests.conftest import MakeServer
from tests.harness.client import Client, quoted
from tests.harness.federation import Pair, Room
from tests.harness.flavours import NEWEST, Flavour
from tests.harness.hostile import HostilePeer
from tests.harness.incident import Incident, make_incident
from tests.harness.process import REPOSITORY
from tests.harness.waiting import wait_for
from tests.openapi import BASE, Contract, Judge

# What differs most: Synapse's version and the database together.
FLAVOURS = [NEWEST, Flavour(b="oldest", database="postgres").param()]
with_pair = pytest.mark.parametrize("pair", FLAVOURS, indirect=True)

EVERYBODY = {"Authorization": None}
OVER = ("complete", "failed", "cancelled")
LEFTOVER = "leftover"


@dataclass
class World:
    """Server B's rooms, one for each thing that can be said of a room."""

    pair: Pair
    judge: Judge
    """An admin of B."""
    user: Client
    """A plain user of B."""
    broken: Incident
    """Nobody repairs it, so that all tests find it as it is."""
    lost: Incident
    """To be repaired."""
    hostile: Room
    """Its one root fails the checks; another event cites it."""
    grab: str
    follower: str
    whole: Room
    left: Room
    odd: str
    """A room of a version that no Synapse knows."""


def path(room_id: str, what: str) -> str:
    return "/v1" + quoted("rooms", room_id, what)


@pytest.fixture(scope="module")
def contract(pair: Pair) -> Contract:
    """The document, and what has been seen of it on one pair of servers."""
    return Contract(tags={"Understand", "Repair"})


@pytest.fixture(scope="module")
def world(pair: Pair, contract: Contract) -> World:
    broken = make_incident(pair.room("10"))
    judge = Judge(contract, broken.room.bob)

    left = pair.room("11")
    for user in (left.bob, left.carol):
        user.leave(left.room_id)
    wait_for(lambda: left.bob.user_id not in left.alice.members(left.room_id), what="B to be gone")
    # A job for a room that the server left before it began, as a crash may leave one.
    _leave_job(pair, LEFTOVER, left.room_id)

    hostile = pair.room("11")
    peer = HostilePeer(pair.a, hostile.room_id)
    mallory = f"@mallory:{pair.a.name}"
    event, grab = peer.forge("m.room.topic", mallory, {"topic": "Mine"}, state_key="")
    peer.send(pair.b, event)
    cited = [*event["auth_events"], grab]
    event, follower = peer.forge(
        "m.room.message", hostile.alice.user_id, {"body": "So there"}, auth_events=cited
    )
    peer.send(pair.b, event)
    for event_id in (grab, follower):
        pair.b.wait_for_event(event_id)
    assert pair.b.rejected(hostile.room_id) == {grab, follower}

    odd = broken.room.bob.create_room("10")
    pair.b.database.execute(
        "UPDATE rooms SET room_version = 'org.example.odd' WHERE room_id = ?", odd
    )
    return World(
        pair,
        judge,
        broken.room.carol,
        broken,
        make_incident(pair.room("12")),
        hostile,
        grab,
        follower,
        pair.room("12"),
        left,
        odd,
    )


def _leave_job(pair: Pair, job_id: str, room_id: str) -> None:
    """Leaves a job that was asked for and has not begun; B takes it up within seconds."""
    request = RepairRequest(Scope(), Deliver.LIVE)
    pair.b.database.execute(
        "INSERT INTO rejection_repair_jobs (job_id, kind, room_id, status, request, progress,"
        " created_ts, cancel_requested) VALUES (?, 'repair', ?, 'scheduled', ?, ?, ?, 0)",
        job_id,
        room_id,
        json.dumps(request.to_json()),
        json.dumps(RepairProgress().to_json()),
        int(time.time() * 1000),
    )


def _operations(world: World) -> Iterator[tuple[str, str]]:
    """Every method and path of the document, with ids that mean something."""
    for template, method, _ in world.judge.contract.operations():
        yield (
            method.upper(),
            template.format(
                room_id=quoted(world.broken.room.room_id)[1:],
                repair_id=quoted(LEFTOVER)[1:],
                event_id=quoted(world.broken.x)[1:],
            ),
        )


def _finished(judge: Judge, repair_id: str) -> Any:
    def over() -> Any:
        repair = judge.ok("GET", f"/v1/repairs/{repair_id}")
        assert repair["done"] <= repair["total"] or repair["status"] == "active"
        return repair if repair["status"] in OVER else None

    return wait_for(over, timeout=120, what=f"repair {repair_id} to be over")


# The document.


def test_document() -> None:
    contract = Contract()
    validate(contract.document)
    names = set()
    for template, method, operation in contract.operations():
        names.add(operation["operationId"])
        assert {"200", "400", "401", "403", "405", "503"} <= operation["responses"].keys()
        named = "{" in template or operation["operationId"] == "importRooms"
        assert ("404" in operation["responses"]) == named
        assert ("requestBody" in operation) == (method == "post")
    assert len(names) == len(list(contract.operations()))

    # An object that may have anything, or that may lack anything, would hide a drift.
    optional = set()
    for schema in _objects(contract.document["components"]):
        properties = schema.get("properties", {}).keys()
        assert "additionalProperties" in schema, schema
        optional |= properties - set(schema.get("required", ()))
    schemas = contract.document["components"]["schemas"]
    requests = [schemas[f"{name}Request"] for name in ("Repair", "Import", "Imports")]
    asked = {name for request in requests for name in request["properties"]}
    assert optional == {"next_token", "soft_logout", *asked} - {"source", "room_ids"}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)
    elif isinstance(value, dict):
        if value.get("type") == "object":
            yield value
        for item in value.values():
            yield from _objects(item)


def test_document_is_complete() -> None:
    folder = REPOSITORY / "synapse_rejection_repair" / "rest"
    assert str(folder) in rest.__path__
    served = set()
    for file in folder.glob("*.py"):
        for found in re.findall(r'pattern\(base, r?"(.*?)"\)', file.read_text()):
            served.add("/v1" + re.sub(r"\(\?P<(\w+)>.*?\)", r"{\1}", found))
    for servlet in (jobs.JobsServlet, jobs.JobStatusServlet, jobs.JobCancelServlet):
        for kind in ("repair", "import"):
            served.add(
                f"/v1/{kind}s" + servlet._BELOW.replace("(?P<job_id>[^/]+)", f"{{{kind}_id}}")
            )
    assert served == Contract().document["paths"].keys()


# What is to be understood.


@with_pair
def test_rooms(world: World) -> None:
    judge = world.judge
    everything = judge.ok("GET", "/v1/rooms")
    rooms = {room["room_id"]: room for room in everything["rooms"]}
    assert len(rooms) == everything["total"] == 3
    assert "next_token" not in everything

    room = rooms[world.broken.room.room_id]
    assert room["rejected_events"] == len(world.broken.lost)
    assert room["room_version"] == "10"
    assert room["name"] == world.broken.room.alice.get_state(room["room_id"], "m.room.name")["name"]
    stamps = [_ts(world, event_id) for event_id in world.broken.lost]
    assert (room["first_ts"], room["last_ts"]) == (min(stamps), max(stamps))

    for order_by in ("room_id", "name", "room_version", "rejected_events", "first_ts", "last_ts"):
        forwards = judge.ok("GET", "/v1/rooms", order_by=order_by, dir="f")["rooms"]
        assert [r[order_by] for r in forwards] == sorted(r[order_by] for r in rooms.values())
        assert judge.ok("GET", "/v1/rooms", order_by=order_by, dir="b")["rooms"] == forwards[::-1]
    assert everything["rooms"] == judge.ok("GET", "/v1/rooms", order_by="room_id")["rooms"]
    assert list(_pages(judge, "/v1/rooms", "rooms", 2)) == everything["rooms"]


def _ts(world: World, event_id: str) -> int:
    sql = "SELECT origin_server_ts FROM events WHERE event_id = ?"
    return int(world.pair.a.database.value(sql, event_id))


def _pages(judge: Judge, path: str, plural: str, limit: int, **params: str) -> Iterator[Any]:
    given, total = {"limit": str(limit), **params}, None
    while True:
        page = judge.ok("GET", path, **given)
        assert total in (None, page["total"])
        total = page["total"]
        yield from page[plural]
        if "next_token" not in page:
            assert len(page[plural]) <= limit
            return
        assert len(page[plural]) == limit
        given["from"] = page["next_token"]


@with_pair
def test_rejections(world: World) -> None:
    judge, incident = world.judge, world.broken
    where = path(incident.room.room_id, "rejections")
    everything = judge.ok("GET", where)["rejections"]
    by_id = {event["event_id"]: event for event in everything}
    assert by_id.keys() == set(incident.lost)
    assert by_id[incident.x]["cites"] == []
    assert all(incident.x in e["cites"] for i, e in by_id.items() if i != incident.x)
    assert set(by_id[incident.late_message]["cites"]) == {incident.x, incident.join}
    assert by_id[incident.x]["type"] == "m.room.power_levels"
    assert by_id[incident.x]["state_key"] == ""
    assert by_id[incident.messages[0]]["state_key"] is None
    assert {event["reason"] for event in everything} == {"auth_error"}
    assert not any(event["outlier"] for event in everything)

    for order_by in ("origin_server_ts", "depth", "event_id", "type", "sender", "reason"):
        forwards = judge.ok("GET", where, order_by=order_by)["rejections"]
        assert [e[order_by] for e in forwards] == sorted(e[order_by] for e in everything)
        backwards = judge.ok("GET", where, order_by=order_by, dir="b")["rejections"]
        assert backwards == forwards[::-1]
    assert list(_pages(judge, where, "rejections", 7)) == everything
    assert list(_pages(judge, where, "rejections", 1000, **{"from": "18"})) == everything[18:]
    past = judge.ok("GET", where, **{"from": "9007199254740991"})
    assert past == {"rejections": [], "total": len(everything)}

    def ids(**filters: str) -> set[str]:
        found = judge.ok("GET", where, **filters)
        assert found["total"] == len(found["rejections"])
        return {event["event_id"] for event in found["rejections"]}

    assert ids(type="m.room.power_levels") == {incident.x}
    assert ids(type="m.room.power_level_") == ids(type="m.room.power%") == set()
    assert ids(sender=incident.late.user_id) == {incident.join, incident.late_message}
    assert ids(reason="auth_error") == set(incident.lost)
    assert ids(reason="another") == ids(type="") == ids(sender="'; DROP TABLE events; --") == set()
    middle = by_id[incident.thread_root]["origin_server_ts"]
    before, after = ids(until_ts=str(middle)), ids(since_ts=str(middle))
    assert before | after == set(incident.lost)
    assert incident.thread_root in before & after
    assert before & after == ids(since_ts=str(middle), until_ts=str(middle))
    assert ids(since_ts="9007199254740991") == ids(until_ts="0") == set()
    assert ids(sender=incident.late.user_id, type="m.room.member") == {incident.join}

    nothing = {"rejections": [], "total": 0}
    assert judge.ok("GET", path(world.whole.room_id, "rejections")) == nothing
    assert judge.ok("GET", path(world.left.room_id, "rejections")) == nothing
    assert judge.ok("GET", path(world.odd, "rejections")) == nothing


@with_pair
def test_diagnosis(world: World) -> None:
    judge, incident = world.judge, world.broken
    diagnosis = judge.ok("GET", path(incident.room.room_id, "diagnosis"))
    assert diagnosis["rejected_events"] == len(incident.lost)
    (root,) = diagnosis["roots"]
    assert (root["event_id"], root["verdict"]) == (incident.x, "accept")
    cascade = [event_id for event_id in incident.lost if event_id != incident.x]
    stamps = [_ts(world, event_id) for event_id in cascade]
    assert root["cascade"] == {
        "count": len(cascade),
        "first_ts": min(stamps),
        "last_ts": max(stamps),
        "servers": {world.pair.a.name: len(cascade)},
    }
    assert diagnosis["still_flowing"] == [world.pair.b.name]
    asked = judge.ok("POST", "/v1/events" + quoted(incident.x, "peers"), {"peers": 3})
    assert asked["peers"]["servers"] == [
        {"server": world.pair.a.name, "answer": "holds", "error": None}
    ]
    with_peers = judge.ok("GET", path(incident.room.room_id, "diagnosis"), peers="1")
    assert with_peers["roots"] == [{**root, "peers": asked["peers"]}]

    diagnosis = judge.ok("GET", path(world.hostile.room_id, "diagnosis"))
    (root,) = diagnosis["roots"]
    assert (root["event_id"], root["verdict"], root["check"]) == (
        world.grab,
        "reject",
        "auth_events",
    )
    assert root["cascade"]["count"] == 1

    nothing = {
        "rejected_events": 0,
        "roots": [],
        "roots_total": 0,
        "still_flowing": [],
        "soft_failed_events": 0,
        "soft_failed": [],
    }
    assert judge.ok("GET", path(world.whole.room_id, "diagnosis")) == nothing
    _refuses_odd_room(world, "GET", "diagnosis")


def _refuses_odd_room(world: World, method: str, what: str) -> None:
    sentence = world.judge.refused(409, "M_UNSUPPORTED_ROOM_VERSION", method, path(world.odd, what))
    assert "org.example.odd" in sentence


@with_pair
def test_recorded_causes(world: World) -> None:
    for room_id, root_id in (
        (world.broken.room.room_id, world.broken.x),
        (world.hostile.room_id, world.grab),
    ):

        def recorded(room_id: str = room_id, root_id: str = root_id) -> Any:
            (root,) = world.judge.ok("GET", path(room_id, "diagnosis"))["roots"]
            assert root["event_id"] == root_id
            return root["recorded"]

        # It is written in the background, some seconds after the rejection.
        cause = wait_for(recorded, what="the cause to be recorded")
        assert cause["check"] == "auth_events"
        assert cause["error"].startswith("403: ")


@with_pair
def test_alerts(world: World) -> None:
    judge, roots = world.judge, {world.broken.x, world.lost.x}
    wait_for(lambda: judge.ok("GET", "/v1/alerts")["total"] == len(roots), what="the alerts")
    everything = judge.ok("GET", "/v1/alerts")["alerts"]
    assert {alert["event_id"] for alert in everything} == roots
    for order_by in ("alerted_ts", "first_ts", "room_id", "event_id", "cascade"):
        forwards = judge.ok("GET", "/v1/alerts", order_by=order_by, dir="f")["alerts"]
        assert [a[order_by] for a in forwards] == sorted(a[order_by] for a in everything)
        assert judge.ok("GET", "/v1/alerts", order_by=order_by, dir="b")["alerts"] == forwards[::-1]
    assert judge.ok("GET", "/v1/alerts", order_by="alerted_ts", dir="b")["alerts"] == everything
    assert list(_pages(judge, "/v1/alerts", "alerts", 1)) == everything
    for incident in (world.broken, world.lost):
        found = judge.ok("GET", "/v1/alerts", room_id=incident.room.room_id)
        assert [alert["event_id"] for alert in found["alerts"]] == [incident.x]
    # One event behind a root makes no cascade.
    assert judge.ok("GET", "/v1/alerts", room_id=world.hostile.room_id)["alerts"] == []


@with_pair
def test_health(world: World) -> None:
    judge = world.judge
    health = judge.ok("GET", path(world.broken.room.room_id, "health"))
    (problem,) = health["problems"]
    assert not health["healthy"]
    assert (problem["check"], problem["count"], problem["repairable"]) == (
        "wrongly_rejected",
        len(world.broken.lost),
        True,
    )
    assert problem["events"] == world.broken.lost[:10]

    health = judge.ok("GET", path(world.hostile.room_id, "health"))
    assert health["healthy"]
    assert [(p["check"], p["repairable"]) for p in health["problems"]] == [("rejected", False)]
    assert judge.ok("GET", path(world.whole.room_id, "health")) == {"healthy": True, "problems": []}
    _refuses_odd_room(world, "GET", "health")


# What is to be repaired.


@with_pair
def test_dry_run(world: World) -> None:
    judge, incident = world.judge, world.broken
    where = path(incident.room.room_id, "repair")
    plan = judge.ok("POST", where)
    assert judge.ok("POST", where, {}) == judge.ok("POST", where, {"dry_run": True}) == plan
    assert plan["events"][0]["event_id"] == incident.x
    assert {event["event_id"] for event in plan["events"]} == set(incident.lost)
    summary = plan["summary"]
    assert (summary["accept"], summary["reject"]) == (len(incident.lost), 0)
    changed = {change["type"]: change["to"] for change in summary["state_changes"]}
    assert changed == {
        "m.room.member": incident.join,
        "m.room.power_levels": incident.x,
        "m.room.topic": incident.topic,
    }
    assert judge.ok("POST", where, {"plan": plan["fingerprint"]}) == plan

    root = [incident.x]
    same = judge.ok("POST", where, {"event_ids": root, "since_ts": 0, "until_ts": 2**53 - 1})
    assert same["events"] == plan["events"]
    history = judge.ok("POST", where, {"deliver": "history", "force": []})
    assert history["summary"] == summary
    assert history["fingerprint"] == plan["fingerprint"] != same["fingerprint"]
    # A part of the cascade stays rejected while its root does.
    part = judge.ok("POST", where, {"event_ids": [incident.join]})
    assert {e["event_id"]: e["verdict"] for e in part["events"]} == {
        incident.join: "reject",
        incident.late_message: "reject",
    }
    assert judge.ok("POST", where, {"until_ts": 0})["events_total"] == 0
    early = judge.ok("POST", where, {"until_ts": _ts(world, incident.x)})
    assert early["events"] == plan["events"][:1]

    where = path(world.hostile.room_id, "repair")
    plan = judge.ok("POST", where)
    assert [(e["event_id"], e["check"]) for e in plan["events"]] == [
        (world.grab, "auth_events"),
        (world.follower, "auth_events"),
    ]
    forced = judge.ok("POST", where, {"force": [world.grab]})
    assert forced["events"][0]["verdict"] == "accept"
    assert [c["to"] for c in forced["summary"]["state_changes"]] == [world.grab]

    idle = judge.ok("POST", path(world.whole.room_id, "repair"))
    assert (idle["events"], idle["summary"]["state_changes"]) == ([], [])


@with_pair
def test_repair(world: World) -> None:
    judge, incident = world.judge, world.lost
    room_id = incident.room.room_id
    where = path(room_id, "repair")
    plan = judge.ok("POST", where)
    start = {"dry_run": False, "plan": plan["fingerprint"]}

    first = judge.ok("POST", where, start)["repair_id"]
    repair = _finished(judge, first)
    assert (repair["status"], repair["room_id"]) == ("complete", room_id)
    assert repair["accepted"] == repair["done"] == repair["total"] == plan["events_total"]
    assert repair["rejected"] == 0
    first_accepted = repair["accepted"]
    assert repair["created_ts"] <= repair["started_ts"] <= repair["finished_ts"]
    assert repair["state_changes"] == plan["summary"]["state_changes"]
    assert judge.ok("GET", path(room_id, "health")) == {"healthy": True, "problems": []}

    sentence = judge.refused(409, "M_CONFLICT", "POST", where, start)
    assert "has changed" in sentence
    again = {"dry_run": False, "deliver": "history"}
    second = _finished(judge, judge.ok("POST", where, again)["repair_id"])
    assert (second["status"], second["total"], second["accepted"]) == ("complete", 0, 0)
    sentence = judge.refused(409, "M_CONFLICT", "POST", f"/v1/repairs/{first}/cancel")
    assert "complete" in sentence
    assert judge.ok("POST", f"/v1/repairs/{first}/undo")["summary"]["receive"] == first_accepted
    idle = judge.ok("POST", f"/v1/repairs/{second['repair_id']}/undo")
    assert (idle["events"], idle["events_total"]) == ([], 0)

    everything = judge.ok("GET", "/v1/repairs", room_id=room_id)
    assert everything["repairs"] == [second, repair]
    forwards = judge.ok("GET", "/v1/repairs", room_id=room_id, dir="f")["repairs"]
    assert forwards == [repair, second]
    assert judge.ok("GET", "/v1/repairs", room_id=room_id, status="complete") == everything
    assert judge.ok("GET", "/v1/repairs", room_id=room_id, status="active")["total"] == 0
    assert list(_pages(judge, "/v1/repairs", "repairs", 1, room_id=room_id)) == [second, repair]

    undo = f"/v1/repairs/{second['repair_id']}/undo"
    undone = _finished(judge, judge.ok("POST", undo, {"dry_run": False})["repair_id"])
    assert (undone["status"], undone["undoes"]) == ("complete", second["repair_id"])
    judge.refused(409, "M_CONFLICT", "POST", f"/v1/repairs/{undone['repair_id']}/undo")


@with_pair
def test_repair_that_is_stopped(world: World) -> None:
    judge, room_id = world.judge, world.whole.room_id
    for number in range(10):
        # What B has not taken up yet stands still; if it is faster than we are, there is another.
        job_id = f"stopped-{number}"
        _leave_job(world.pair, job_id, room_id)
        start = judge.call("POST", path(room_id, "repair"), json={"dry_run": False})
        cancel = judge.call("POST", f"/v1/repairs/{job_id}/cancel", json={})
        if (start.status_code, cancel.status_code) == (409, 200):
            break
        if start.status_code == 200:
            _finished(judge, start.json()["repair_id"])
        _finished(judge, job_id)
    assert start.json()["errcode"] == "M_CONFLICT"
    assert job_id in start.json()["error"] and room_id in start.json()["error"]
    assert cancel.json()["repair_id"] == job_id
    assert _finished(judge, job_id)["status"] == "cancelled"
    stopped = judge.ok("GET", "/v1/repairs", room_id=room_id, status="cancelled")["repairs"]
    assert job_id in [repair["repair_id"] for repair in stopped]


@with_pair
def test_repair_of_what_fails(world: World) -> None:
    judge = world.judge
    where = path(world.hostile.room_id, "repair")
    repair = _finished(judge, judge.ok("POST", where, {"dry_run": False})["repair_id"])
    assert (repair["status"], repair["accepted"], repair["rejected"]) == ("complete", 0, 2)
    assert world.pair.b.rejected(world.hostile.room_id) == {world.grab, world.follower}


@with_pair
def test_repair_that_fails(world: World) -> None:
    judge = world.judge
    repair = _finished(judge, LEFTOVER)
    assert repair["status"] == "failed"
    assert world.left.room_id in repair["error"]
    assert repair["started_ts"] is None
    for order_by in ("created_ts", "room_id", "status", "started_ts", "finished_ts"):
        for direction in ("f", "b"):
            found = judge.ok("GET", "/v1/repairs", order_by=order_by, dir=direction)["repairs"]
            # Where the empty ones go is the database's choice.
            values = [entry[order_by] for entry in found if entry[order_by] is not None]
            assert values == sorted(values, reverse=direction == "b")
    failed = judge.ok("GET", "/v1/repairs", status="failed")["repairs"]
    assert failed == [repair]
    sentence = judge.refused(409, "M_CONFLICT", "POST", path(world.left.room_id, "repair"))
    assert "not in room" in sentence
    _refuses_odd_room(world, "POST", "repair")


# What is the same for all.


@with_pair
def test_who_may_not(world: World) -> None:
    calls = list(_operations(world))
    calls += [("GET", "/v1/nothing"), ("POST", "/v2/rooms"), ("GET", ""), ("GET", "/")]
    calls += [(method, "/v1/rooms") for method in ("HEAD", "PUT", "DELETE", "PATCH")]
    plain = Judge(world.judge.contract, world.user)
    for method, where in calls:
        for headers, errcode in (
            (EVERYBODY, "M_MISSING_TOKEN"),
            ({"Authorization": "Bearer nonsense"}, "M_UNKNOWN_TOKEN"),
            ({"Authorization": "Basic YTpi"}, "M_MISSING_TOKEN"),
        ):
            response = world.judge.call(method, where, headers=headers)
            assert response.status_code == 401, (method, where)
            assert method == "HEAD" or response.json()["errcode"] == errcode
        response = plain.call(method, where)
        assert response.status_code == 403, (method, where)
        assert method == "HEAD" or response.json() == {
            "errcode": "M_FORBIDDEN",
            "error": "You are not a server admin",
        }
    # Nothing of a request is looked at before it is known who asks.
    where = path(world.broken.room.room_id, "repair")
    assert world.judge.call("POST", where, data=b"{", headers=EVERYBODY).status_code == 401
    assert plain.call("POST", where, json={"dryrun": False}).status_code == 403
    # As everywhere in Synapse, the token may be in the query.
    token = {"access_token": world.judge.client.access_token}
    response = world.judge.client.response(
        "GET", BASE + "/v1/rooms", params=token, headers=EVERYBODY
    )
    assert response.status_code == 200


@with_pair
def test_cross_origin(world: World) -> None:
    for _, where in (*_operations(world), ("GET", "/v1/nothing")):
        response = requests.options(
            world.pair.b.url + BASE + where,
            headers={
                "Origin": "https://admin.example.org",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            },
            timeout=60,
        )
        assert response.status_code == 204, where
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert {"GET", "POST"} <= set(_words(response, "Methods"))
        assert {"authorization", "content-type"} <= set(_words(response, "Headers"))


def _words(response: requests.Response, what: str) -> list[str]:
    words = response.headers[f"Access-Control-Allow-{what}"].split(",")
    return [w.strip().lower() if what == "Headers" else w.strip() for w in words]


@with_pair
def test_methods_and_paths(world: World) -> None:
    judge = world.judge
    documented = list(_operations(world))
    for method, where in documented:
        for other in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            if (other, where) not in documented:
                judge.refused(405, "M_UNRECOGNIZED", other, where)
        if method == "GET":
            got, head = judge.call("GET", where), judge.call("HEAD", where)
            assert (got.status_code, head.status_code) == (200, 200), where
            assert head.content == b""
        judge.refused(404, "M_UNRECOGNIZED", method, where + "/")
        judge.refused(404, "M_UNRECOGNIZED", method, where + "x/y")
    for where in ("", "/", "/v1", "/v2/rooms", "/rooms", "/v1/room", "/v1//rooms", "/v1/rooms/x"):
        judge.refused(404, "M_UNRECOGNIZED", "GET", where)


@with_pair
def test_bad_requests(world: World) -> None:
    judge = world.judge
    unknown, gone = path("!unknown:example.org", ""), "/v1/repairs/unknown"
    for method, where in _operations(world):
        judge.refused(400, "M_INVALID_PARAM", method, where, dryrun="true")
        if method == "POST":
            judge.refused(400, "M_INVALID_PARAM", method, where, {"dryrun": False})
            judge.refused(400, "M_NOT_JSON", method, where, data=b"{")
            judge.refused(400, "M_BAD_JSON", method, where, data=b"[]")
    for what in ("rejections", "diagnosis", "health"):
        assert "!unknown" in judge.refused(404, "M_NOT_FOUND", "GET", unknown + what)
    judge.refused(404, "M_NOT_FOUND", "POST", unknown + "repair")
    judge.refused(404, "M_NOT_FOUND", "GET", gone)
    judge.refused(404, "M_NOT_FOUND", "POST", gone + "/cancel")
    judge.refused(404, "M_NOT_FOUND", "POST", gone + "/undo")
    judge.refused(404, "M_NOT_FOUND", "POST", "/v1/events/%24unknown/peers")


@with_pair
def test_on_another_synapse(make_server: MakeServer, world: World) -> None:
    modules = [
        {
            "module": "tests.changed_synapse.ChangedSynapse",
            "config": {"missing": ["synapse.state.v1:resolve_events_with_store"]},
        },
        {"module": "synapse_rejection_repair.RejectionRepair", "config": {}},
    ]
    server = make_server(install=world.pair.b.install, modules=modules).start()
    judge = Judge(world.judge.contract, server.register("admin", admin=True))
    for method, where in _operations(world):
        assert "resolve_events_with_store" in judge.refused(503, "M_UNKNOWN", method, where)


@with_pair
def test_nothing_went_wrong(world: World) -> None:
    assert world.pair.a.errors_in_log() == []
    assert world.pair.b.errors_in_log() == []


@with_pair
def test_everything_was_seen(request: pytest.FixtureRequest, world: World) -> None:
    here = {
        item.originalname
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    }
    if here != {name for name in vars(request.module) if name.startswith("test_")}:
        pytest.skip("only a part of this file runs")
    contract = world.judge.contract
    assert contract.documented - contract.seen == set()
