"""The module's section of homeserver.yaml, read by Synapse itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from synapse.config._base import ConfigError, format_config_error
from synapse.config.homeserver import HomeServerConfig

from synapse_rejection_repair.config import DEFAULT_PATH, AlertConfig, Config
from tests.conftest import MakeServer
from tests.harness.client import MatrixError
from tests.harness.config import write_config
from tests.harness.database import SqliteDatabase
from tests.harness.waiting import wait_for

MODULE = "synapse_rejection_repair.RejectionRepair"

# Each with the field that is to be named, and a part of the sentence.
WRONG: list[tuple[Any, str, str]] = [
    ({"pth": "/_x"}, "pth", "is not known; known are: alert, auto_repair, max_peers, path"),
    ({"path": "/_x", 3: 4}, "3", "is not known"),
    ({"path": 3}, "path", "must be a string"),
    ({"path": None}, "path", "must be a string"),
    ({"path": ["/_x"]}, "path", "must be a string"),
    ({"path": True}, "path", "must be a string"),
    ({"path": ""}, "path", "must be a string that begins with '/'"),
    ({"path": "_x"}, "path", "must be a string that begins with '/'"),
    ({"path": "/"}, "path", "must begin with '/_'"),
    ({"path": "/repair"}, "path", "must begin with '/_'"),
    ({"path": "/_x/../y"}, "path", "plain path"),
    ({"path": "/_x//y"}, "path", "plain path"),
    ({"path": "/_x y"}, "path", "plain path"),
    ({"path": "/_x%20y"}, "path", "plain path"),
    ({"path": "/_x?y"}, "path", "plain path"),
    ({"path": "/_x\n"}, "path", "plain path"),
    ({"path": "/_\u00fc"}, "path", "plain path"),
    ({"path": "/_matrix"}, "path", "must not lie below /_matrix"),
    ({"path": "/_matrix/client/v3/repair"}, "path", "must not lie below /_matrix"),
    ({"path": "/_synapse/admin/repair"}, "path", "must not lie below /_synapse/admin"),
    ({"path": "/_synapse/"}, "path", "must not lie above /_synapse/admin"),
    *(
        ({"max_peers": most}, "max_peers", "must be a whole number from 0 to 20")
        for most in (-1, 21, "5", True, None)
    ),
    *(
        (
            {"auto_repair": {"max_events": most}},
            "auto_repair.max_events",
            "must be a whole number from 1 to 10000",
        )
        for most in (0, -1, 10001, "5", True, None, 1.5)
    ),
    ({"auto_repair": {}}, "auto_repair.max_events", "must be a whole number"),
    ({"auto_repair": True}, "auto_repair", "must be a mapping"),
    ({"auto_repair": {"max": 3}}, "auto_repair.max", "is not known; known are: max_events"),
    ({"auto_repair": {"max_events": 3}, "max_peers": 0}, "max_peers", "at least 1 for 'auto_rep"),
    ({"alert": 3}, "alert", "must be a mapping"),
    ({"alert": {"rom": "!x"}}, "alert.rom", "is not known; known are: after, room, sender"),
    *(
        ({"alert": {"after": after}}, "alert.after", "must be a whole number from 1 to 500")
        for after in (0, 501, -1, True, "3", 1.5, None)
    ),
    *(
        ({"alert": {"room": room, "sender": "@a:b"}}, "alert.room", "must be a room id")
        for room in ("#admins:example.org", "!", "! x", 3, "")
    ),
    *(
        ({"alert": {"room": "!r:b", "sender": sender}}, "alert.sender", "must be a user id")
        for sender in ("alerts", "@alerts", "@a:", 3, "")
    ),
    ({"alert": {"sender": "@a:b"}}, "alert.room", "must name the room"),
    (["path"], "config", "must be a mapping"),
    ("path", "config", "must be a mapping"),
]

RIGHT: list[tuple[Any, str]] = [
    (None, DEFAULT_PATH),
    ({}, DEFAULT_PATH),
    ({"path": "/_synapse/rejection_repair"}, "/_synapse/rejection_repair"),
    ({"path": "/_synapse/rejection_repair/"}, "/_synapse/rejection_repair"),
    ({"path": "/_ops/~repair-1.0"}, "/_ops/~repair-1.0"),
]


def _load(folder: Path, config: Any) -> Config:
    """Lets Synapse load a homeserver.yaml with that section, and returns what became of it."""
    write_config(
        folder,
        client_port=1,
        federation_port=2,
        database=SqliteDatabase(folder / "homeserver.db"),
        modules=[{"module": MODULE, "config": config}],
    )
    loaded: Any = HomeServerConfig.load_config("", ["-c", str(folder / "homeserver.yaml")])
    ((_, parsed),) = loaded.modules.loaded_modules
    assert isinstance(parsed, Config)
    return parsed


@pytest.mark.parametrize(("config", "field", "reason"), WRONG, ids=lambda value: repr(value)[:40])
def test_wrong(tmp_path: Path, config: Any, field: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _load(tmp_path, config)
    words = "".join(format_config_error(refused.value))
    assert f"'modules.<item 0>.config.{field}'" in words
    assert f"'{field}' " in words
    assert reason in words


@pytest.mark.parametrize(("config", "path"), RIGHT, ids=repr)
def test_right(tmp_path: Path, config: Any, path: str) -> None:
    assert _load(tmp_path, config).path == path


def test_alert(tmp_path: Path) -> None:
    assert _load(tmp_path, {}).alert == AlertConfig(after=3, room=None, sender=None)
    assert _load(tmp_path, {"alert": None}).alert == AlertConfig()
    section: dict[str, Any] = {
        "after": 500,
        "room": "!" + "a" * 43,
        "sender": "@alerts:example.org",
    }
    assert _load(tmp_path, {"alert": section}).alert == AlertConfig(**section)
    del section["sender"]
    assert _load(tmp_path, {"alert": section}).alert == AlertConfig(**section, sender=None)


def test_alerts_of_somebody_else(make_server: MakeServer) -> None:
    alert = {"room": "!room:example.org", "sender": "@alerts:example.org"}
    modules = [{"module": MODULE, "config": {"alert": alert}}]
    server = make_server(modules=modules)
    with pytest.raises(RuntimeError) as ended:
        server.start()
    assert "'alert.sender' must be a user of this server" in str(ended.value)

    server.stop()

    # What a configuration cannot tell is said in the log, before it is needed.
    alert["sender"] = f"@alerts:{server.name}"
    server.load_modules(modules)
    server.start()
    wait_for(
        lambda: f"{alert['sender']} is not in 'alert.room'" in server.log_text(), what="a warning"
    )
    server.stop()
    del alert["sender"]
    server.load_modules(modules)
    server.start()
    wait_for(
        lambda: "No user of this server is in 'alert.room'" in server.log_text(), what="a warning"
    )


def test_server_refuses_to_start(make_server: MakeServer) -> None:
    modules = [{"module": MODULE, "config": {"path": "/_x", "dryrun": True}}]
    with pytest.raises(RuntimeError) as ended:
        make_server(modules=modules).start()
    words = str(ended.value)
    assert "Error in configuration at 'modules.<item 0>.config.dryrun'" in words
    assert "'dryrun' is not known" in words
    assert "Traceback" not in words


def test_twice_in_modules(make_server: MakeServer) -> None:
    modules = [{"module": MODULE, "config": {"path": path}} for path in ("/_x", "/_y")]
    with pytest.raises(RuntimeError) as ended:
        make_server(modules=modules).start()
    assert "the module is there twice in 'modules'" in str(ended.value)


def test_state_in_another_database(make_server: MakeServer) -> None:
    server = make_server()
    written = server.folder / "homeserver.yaml"
    config = yaml.safe_load(written.read_text())
    args = {"cp_min": 1, "cp_max": 1}
    del config["database"]
    config["databases"] = {
        of: {
            "name": "sqlite3",
            "data_stores": [of],
            "args": {**args, "database": str(server.folder / f"{of}.db")},
        }
        for of in ("main", "state")
    }
    written.write_text(yaml.safe_dump(config))
    server.start()
    admin = server.register("admin", admin=True)
    with pytest.raises(MatrixError) as refused:
        admin.repair_api("GET", "/rooms")
    assert refused.value.status == 503
    assert "its state in a database of its own" in str(refused.value)
    assert "its state in a database of its own" in server.log_text()


def test_other_path(make_server: MakeServer) -> None:
    modules = [{"module": MODULE, "config": {"path": "/_ops/repair/"}}]
    server = make_server(modules=modules).start()
    admin = server.register("admin", admin=True)
    assert admin.call("GET", "/_ops/repair/v1/rooms") == {"rooms": [], "total": 0}
    # Where it is not, Synapse answers as ever.
    for path in (DEFAULT_PATH + "/v1/rooms", "/_opsXrepair/v1/rooms", "/_ops/repair/v1/roomsX"):
        with pytest.raises(MatrixError) as refused:
            admin.call("GET", path)
        assert refused.value.status == 404
    assert server.errors_in_log() == []
