"""A Synapse whose insides are not those that the module was audited with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from synapse_rejection_repair import adapter
from synapse_rejection_repair.adapter.audit import (
    _EXPECTED,
    _ON_OBJECTS,
    differences,
    unsupported,
)
from tests.conftest import MakeServer
from tests.harness.client import MatrixError
from tests.harness.installs import OLDEST
from tests.openapi import Contract, Judge

MODULE = {"module": "synapse_rejection_repair.RejectionRepair", "config": {}}
STATE_V1 = "synapse.state.v1:resolve_events_with_store"
HASH = "synapse.crypto.event_signing:check_event_content_hash"
EXTREMITIES = (
    "synapse.storage.databases.main.events:PersistEventsStore._update_forward_extremities_txn"
)
# Imported by name, and none of those that the audit looks at: what only fails when it is imported.
UNLISTED = "synapse.federation.federation_base:InvalidEventSignatureError"

CASES = [
    pytest.param({"missing": [STATE_V1, HASH]}, [STATE_V1, HASH], "is missing", id="missing"),
    pytest.param(
        {"changed": [EXTREMITIES]}, [EXTREMITIES], "has no parameter txn", id="parameters"
    ),
    pytest.param(
        {"missing": [UNLISTED]}, [UNLISTED.partition(":")[2]], "cannot import name", id="unlisted"
    ),
]


def _calls() -> Iterator[tuple[str, str]]:
    """Every operation of the document, and what is none."""
    for path, method, _ in Contract().operations():
        ids = {"repair_id": "id", "import_id": "id", "name": "old", "event_id": "$event"}
        yield method.upper(), path.format(room_id="!room:example.org", **ids)
    yield "HEAD", "/v1/rooms"
    yield "DELETE", "/v1/rooms"
    yield "GET", "/v1/nothing"
    yield "GET", ""


@pytest.mark.parametrize(("config", "named", "how"), CASES)
def test_other_synapse(
    make_server: MakeServer, config: dict[str, Any], named: list[str], how: str
) -> None:
    change = {"module": "tests.changed_synapse.ChangedSynapse", "config": config}
    server = make_server(modules=[change, MODULE]).start()
    admin, user = server.register("admin", admin=True), server.register("user")

    # It says so, once, and names all that differs.
    (error,) = server.errors_in_log()
    names = [name.replace(":", ".") for name in named]
    assert "synapse_rejection_repair" in error and how in error
    assert all(name in error for name in names), error

    # It does nothing at all, ...
    judge, nobody = Judge(Contract(), admin), {"Authorization": None}
    for method, path in _calls():
        response = judge.call(method, path)
        assert response.status_code == 503, (method, path)
        if method != "HEAD":
            assert all(name in response.json()["error"] for name in names)
        # ... and tells those who may not know anyway nothing of it.
        assert judge.call(method, path, headers=nobody).status_code == 401
        assert Judge(judge.contract, user).call(method, path).status_code == 403
    sql = "SELECT name FROM sqlite_master WHERE name LIKE 'rejection_repair%'"
    assert server.database.query(sql) == []

    # The server works as ever.
    room_id = admin.create_room("12")
    user.join(room_id)
    event_id = user.send_message(room_id, "Nothing is wrong here")
    assert admin.messages(room_id)[0]["event_id"] == event_id
    assert admin.search("wrong") == [event_id]
    assert server.errors_in_log() == [error]


def test_this_synapse_is_audited() -> None:
    assert differences() == []


def _homeserver(persist_events: object, persistence: object, resolution: object) -> Any:
    return SimpleNamespace(
        get_datastores=lambda: SimpleNamespace(persist_events=persist_events, databases=[None]),
        get_storage_controllers=lambda: SimpleNamespace(persistence=persistence),
        get_state_resolution_handler=lambda: resolution,
    )


def test_what_objects_lack_is_named() -> None:
    storing = SimpleNamespace(_backfill_id_gen=None), SimpleNamespace(_event_persist_queue=None)
    cached = SimpleNamespace(_state_cache=SimpleNamespace(_cache={}))
    assert unsupported(_homeserver(*storing, cached)) is None
    # A process that stores no events, and a Synapse without that cache.
    assert unsupported(_homeserver(None, None, SimpleNamespace())) is None
    lacking = SimpleNamespace()
    refused = unsupported(_homeserver(lacking, lacking, SimpleNamespace(_state_cache=lacking)))
    assert refused is not None
    for name in ("_backfill_id_gen", "_event_persist_queue", "_cache"):
        assert f"SimpleNamespace.{name} is missing" in str(refused)


UNAUDITED = {
    # Without it there is no homeserver to audit.
    "_hs",
    # Not in every Synapse, and asked for before it is used.
    "_apply_existing_redaction_txn",
}


def test_what_is_private_is_audited() -> None:
    audited = {name.rpartition(".")[2] for _, name, _ in _EXPECTED} | {n for _, n in _ON_OBJECTS}
    used = {
        node.attr
        for path in Path(adapter.__path__[0]).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and re.match("_[^_]", node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    assert used - audited == UNAUDITED


@pytest.mark.oldest
def test_oldest_synapse_is_audited(make_server: MakeServer) -> None:
    server = make_server(install=OLDEST).start()
    admin = server.register("admin", admin=True)
    assert admin.repair_api("GET", "/rooms") == {"rooms": [], "total": 0}
    with pytest.raises(MatrixError) as refused:
        admin.repair_api("GET", "/nothing")
    assert refused.value.status == 404
    assert server.errors_in_log() == []
