"""Every answer of the import's endpoints, on real servers, against the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import MakeServer
from tests.harness.client import quoted
from tests.harness.waiting import wait_for
from tests.oldworld import OVER, OldWorld, old_world, room_path
from tests.openapi import Contract, Judge

GONE = {"name": "sqlite3", "args": {"database": "/nowhere/at/all.db"}}


@dataclass
class World:
    old: OldWorld
    judge: Judge


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with old_world(folder, "11", messages=30, others={"gone": GONE}) as old:
        yield World(old, Judge(Contract(tags={"Import"}), old.bob))


def _operations(world: World) -> Iterator[tuple[str, str]]:
    for template, method, _ in world.judge.contract.operations():
        room_id = quoted(world.old.room_id)[1:]
        yield method.upper(), template.format(room_id=room_id, name="old", import_id="unknown")


def test_what_is_refused(world: World) -> None:
    judge, old = world.judge, {"source": "old"}
    here = "/v1" + room_path(world.old.room_id, "import")
    for method, where in _operations(world):
        judge.refused(400, "M_INVALID_PARAM", method, where, dryrun="true")
        if method == "POST":
            judge.refused(400, "M_INVALID_PARAM", method, where, {"dryrun": False})
            judge.refused(400, "M_NOT_JSON", method, where, data=b"{")
            judge.refused(400, "M_BAD_JSON", method, where, data=b"[]")
    for body in (
        {},
        {"source": ""},
        {"source": None},
        {**old, "dry_run": 0},
        {**old, "verify_signatures": "yes"},
        {**old, "events_per_second": 0},
        {**old, "events_per_second": 1_000_001},
        {**old, "events_per_second": None},
        {**old, "media": 1},
        {**old, "room_ids": "all"},
    ):
        judge.refused(400, "M_INVALID_PARAM", "POST", here, body)
    bad: list[Any] = [None, "", [], ["x"], [1], {}, [world.old.room_id] * 1001]
    for room_ids in bad:
        judge.refused(400, "M_INVALID_PARAM", "POST", "/v1/imports", {**old, "room_ids": room_ids})

    nowhere = "/v1" + room_path("!nowhere:example.org", "import")
    judge.refused(404, "M_NOT_FOUND", "POST", nowhere, old)
    assert "'none'" in judge.refused(404, "M_NOT_FOUND", "POST", here, {"source": "none"})
    judge.refused(404, "M_NOT_FOUND", "GET", "/v1/sources/none/rooms")
    all_rooms = {"source": "none", "room_ids": "all"}
    judge.refused(404, "M_NOT_FOUND", "POST", "/v1/imports", all_rooms)
    judge.refused(404, "M_NOT_FOUND", "GET", "/v1/imports/none")
    judge.refused(404, "M_NOT_FOUND", "GET", "/v1/imports/none/skipped")
    judge.refused(404, "M_NOT_FOUND", "GET", "/v1/imports/none/skipped_media")
    judge.refused(404, "M_NOT_FOUND", "POST", "/v1/imports/none/cancel")

    for sentence in (
        judge.refused(409, "M_CONFLICT", "GET", "/v1/sources/gone/rooms"),
        judge.refused(409, "M_CONFLICT", "POST", here, {"source": "gone"}),
        judge.refused(
            409, "M_CONFLICT", "POST", "/v1/imports", {"source": "gone", "room_ids": ["!a:b"]}
        ),
    ):
        assert "nowhere" not in sentence


def test_who_may_not(world: World) -> None:
    plain = Judge(world.judge.contract, world.old.b.register("plain"))
    for method, where in _operations(world):
        response = world.judge.call(method, where, headers={"Authorization": None})
        assert response.status_code == 401, where
        assert plain.call(method, where).status_code == 403, where
        world.judge.refused(405, "M_UNRECOGNIZED", "DELETE", where)


def test_many_rooms(world: World) -> None:
    judge = world.judge
    left = world.old.bob.create_room("11")
    world.old.bob.leave(left)
    body = {"source": "old", "room_ids": [world.old.room_id, "!nowhere:example.org", left]}
    answer = judge.ok("POST", "/v1/imports", body)
    assert [room.get("errcode") for room in answer["rooms"]] == [None, "M_NOT_FOUND", "M_CONFLICT"]


def test_an_import(world: World) -> None:
    judge, room_id = world.judge, world.old.room_id
    here = "/v1" + room_path(room_id, "import")
    assert judge.ok("GET", "/v1/sources")["total"] == 2
    pages = [judge.ok("GET", "/v1/sources", order_by="name", dir="b", limit="1")]
    pages.append(judge.ok("GET", "/v1/sources", dir="b", limit="1", **{"from": "1"}))
    assert pages[0]["next_token"] == "1" and "next_token" not in pages[1]
    assert [s["name"] for page in pages for s in page["sources"]] == ["old", "gone"]
    for order_by in ("room_id", "events", "missing", "joined"):
        found = judge.ok("GET", "/v1/sources/old/rooms", order_by=order_by, dir="b", limit="1")
        assert [room["room_id"] for room in found["rooms"]] == [room_id]
    summary = judge.ok("POST", here, {"source": "old"})["summary"]
    started = judge.ok(
        "POST",
        here,
        {"source": "old", "dry_run": False, "verify_signatures": True, "events_per_second": 20},
    )
    where = f"/v1/imports/{started['import_id']}"
    judge.refused(409, "M_CONFLICT", "POST", here, {"source": "old", "dry_run": False})

    def over() -> Any:
        job = judge.ok("GET", where)
        return job if job["status"] in OVER else None

    judge.ok("POST", where + "/cancel")
    cancelled = wait_for(over, 60)
    assert cancelled["status"] == "cancelled"
    judge.refused(409, "M_CONFLICT", "POST", where + "/cancel")

    answer = judge.ok(
        "POST", "/v1/imports", {"source": "old", "dry_run": False, "room_ids": [room_id]}
    )
    (room,) = answer["rooms"]
    where = f"/v1/imports/{room['import_id']}"
    complete = wait_for(over, 60)
    assert complete["status"] == "complete"
    assert complete["imported"] + cancelled["imported"] == summary["to_import"]
    nothing = judge.ok("GET", where + "/skipped", order_by="event_id", dir="b")
    assert nothing == {"skipped": [], "total": 0}
    nothing = judge.ok("GET", where + "/skipped_media", order_by="mxc", dir="b")
    assert nothing == {"skipped_media": [], "total": 0}
    listed = judge.ok("GET", "/v1/imports", room_id=room_id)
    assert listed == {"imports": [complete, cancelled], "total": 2}
    assert judge.ok("GET", "/v1/imports", status="cancelled")["total"] == 1
    assert judge.ok("GET", "/v1/repairs")["total"] == 0
    judge.refused(404, "M_NOT_FOUND", "GET", f"/v1/repairs/{room['import_id']}")


def test_on_another_synapse(make_server: MakeServer, world: World) -> None:
    modules = [
        {
            "module": "tests.changed_synapse.ChangedSynapse",
            "config": {"missing": ["synapse.state.v1:resolve_events_with_store"]},
        },
        {"module": "synapse_rejection_repair.RejectionRepair", "config": {}},
    ]
    server = make_server("changed", modules=modules).start()
    judge = Judge(world.judge.contract, server.register("admin", admin=True))
    for method, where in _operations(world):
        judge.refused(503, "M_UNKNOWN", method, where)


def test_everything_was_seen(request: pytest.FixtureRequest, world: World) -> None:
    here = {item.name for item in request.session.items if item.path == request.path}
    if here != {name for name in vars(request.module) if name.startswith("test_")}:
        pytest.skip("only a part of this file runs")
    contract = world.judge.contract
    assert contract.documented - contract.seen == set()
    assert world.old.b.errors_in_log() == []
