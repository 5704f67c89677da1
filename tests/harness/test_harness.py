"""The harness itself: its servers are real, its incidents happen, and it leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
from synapse.config.homeserver import HomeServerConfig

from tests.conftest import MakeServer
from tests.harness import log
from tests.harness.client import MatrixError
from tests.harness.config import EXAMPLE, write_keys
from tests.harness.federation import Pair
from tests.harness.flavours import ROOM_VERSIONS, Flavour
from tests.harness.hostile import HostilePeer
from tests.harness.incident import make_incident
from tests.harness.installs import OLDEST
from tests.harness.ports import free_port
from tests.harness.postgres import Postgres
from tests.harness.process import REPOSITORY
from tests.harness.waiting import wait_for

# Without the module: what is tested here must not depend on what it is there to test.
FLAVOURS = [
    Flavour(repair=False).param(),
    Flavour(a="oldest", b="newest", database="postgres", repair=False).param(pytest.mark.slow),
    Flavour(b="oldest", repair=False).param(pytest.mark.slow),
]


@pytest.mark.parametrize("version", ROOM_VERSIONS)
@pytest.mark.parametrize("pair", FLAVOURS, indirect=True)
def test_incident_is_real(pair: Pair, version: str) -> None:
    room = pair.room(version)
    r = room.room_id
    incident = make_incident(room)

    assert pair.b.rejected(r) == set(incident.lost)
    assert not pair.a.rejected(r)
    # B's own messages went out all the while.
    on_a = {event["event_id"] for event in room.alice.messages(r)}
    assert on_a >= {*incident.lost, *incident.kept}
    # B's users see nothing of what A sent since.
    on_b = {event["event_id"] for event in room.bob.messages(r)}
    assert on_b >= set(incident.kept)
    assert not on_b & set(incident.lost)
    timeline = room.bob.sync(incident.since)["rooms"]["join"][r]["timeline"]["events"]
    assert {event["event_id"] for event in timeline} == set(incident.kept)
    assert room.bob.search(incident.WORD) == []
    assert set(room.alice.search(incident.WORD)) >= set(incident.messages)
    # B lives in the state from before X.
    assert room.bob.get_state(r, "m.room.topic")["topic"] == "Before the incident"
    assert room.alice.get_state(r, "m.room.topic")["topic"] == incident.NEW_TOPIC
    assert incident.late.user_id not in room.bob.members(r)
    with pytest.raises(MatrixError) as refused:
        room.carol.kick(r, room.bob.user_id)
    assert refused.value.status == 403

    assert pair.a.errors_in_log() == []
    assert pair.b.errors_in_log() == []


@pytest.mark.slow
@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_hostile_peer(make_server: MakeServer, version: str) -> None:
    a, b = make_server("a", modules=[]).start(), make_server("b", modules=[]).start()
    room = Pair(a, b).room(version)
    peer = HostilePeer(a, room.room_id)
    message = {"msgtype": "m.text", "body": "Forged"}

    # With nothing wrong about it, an event is accepted, ...
    event, good = peer.forge("m.room.message", room.alice.user_id, message)
    assert peer.send(b, event) == {good: {}}
    # ... and one that builds on it; ...
    event, child = peer.forge("m.room.message", room.alice.user_id, message, prev_events=[good])
    assert peer.send(b, event) == {child: {}}
    # ... one by somebody who may not do this is rejected; ...
    mallory = f"@mallory:{a.name}"
    event, grab = peer.forge("m.room.topic", mallory, {"topic": "Mine"}, state_key="")
    assert peer.send(b, event) == {grab: {}}
    # ... one with a wrong hash is stored redacted; ...
    event, unhashed = peer.forge("m.room.message", room.alice.user_id, message)
    event["content"] = {**message, "body": "Something else"}
    assert peer.send(b, event) == {unhashed: {}}
    # ... one that the signature does not fit is not taken.
    event, unsigned = peer.forge("m.room.message", room.alice.user_id, message)
    event["depth"] += 1
    (answer,) = peer.send(b, event).values()
    assert "signature" in answer["error"].lower()

    for event_id in (good, child, grab, unhashed):
        b.wait_for_event(event_id)
    assert b.rejected(room.room_id) == {grab}
    assert room.bob.event(room.room_id, good)["content"] == message
    assert room.bob.event(room.room_id, unhashed)["content"] == {}
    assert b.database.query("SELECT 1 FROM events WHERE event_id = ?", unsigned) == []


@pytest.mark.slow
def test_servers_find_each_other_again(make_server: MakeServer) -> None:
    a, b = make_server("a", modules=[]).start(), make_server("b", modules=[]).start()
    room = Pair(a, b).room("10")

    b.restart()
    a.wait_for_event(room.bob.send_message(room.room_id, "I am back"))
    b.wait_for_event(room.alice.send_message(room.room_id, "So I see"))

    a.kill()
    assert not a.running
    unheard = room.bob.send_message(room.room_id, "Are you there?")
    a.start()
    a.wait_for_event(unheard)
    assert a.errors_in_log() == b.errors_in_log() == []
    memory = b.memory()
    assert 10_000_000 < memory["VmRSS"] <= memory["VmHWM"]


def test_server_that_cannot_start_says_why(make_server: MakeServer) -> None:
    server = make_server(modules=[], config={"listeners": [{"port": "not a number"}]})
    with pytest.raises(RuntimeError, match="listeners"):
        server.start()


def test_errors_in_log(make_server: MakeServer) -> None:
    server = make_server("broken", modules=[])
    (server.folder / "homeserver.db").mkdir()
    with pytest.raises(RuntimeError, match="database"):
        server.start()
    assert server.errors_in_log() != []

    entry = "2026-01-01 00:00:00,000 - synapse.x - 1 - {} - GET-1 - {}\n"
    text = (
        entry.format("INFO", "An ERROR is spoken of")
        + entry.format("ERROR", "It broke")
        + "with a second line\n"
        + entry.format("WARNING", "It raised")
        + "Traceback (most recent call last):\n  File …\nKeyError: 1\n"
        + entry.format("CRITICAL", "As expected")
    )
    broke, raised = log.errors(text, ignore=["As expected"])
    assert broke.endswith("It broke\nwith a second line")
    assert raised.endswith("KeyError: 1")


def test_nothing_outlives_its_starter(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from tests.harness.postgres import Postgres
from tests.harness.server import Server
server = Server(Path({str(tmp_path)!r}), modules=[]).start()
postgres = Postgres()
postgres.start()
postmaster = (postgres.folder / "data" / "postmaster.pid").read_text().split()[0]
print(postgres.folder, server.pid, postmaster, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    starter = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert starter.returncode == -signal.SIGKILL, starter.stderr
    folder, *pids = starter.stdout.split()
    for pid in map(int, pids):
        wait_for(lambda pid=pid: not _runs(pid), timeout=10, what=f"{pid} to end")  # type: ignore[misc]
    shutil.rmtree(folder)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie waits for whoever adopts it, which in a container may be nobody.
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_ports_are_given_out_once() -> None:
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50


@pytest.mark.postgres
def test_postgres_survives_a_kill() -> None:
    cluster = Postgres()
    try:
        cluster.start()
        database = cluster.create_database()
        database.execute("CREATE TABLE t (a text)")
        assert database.execute("INSERT INTO t VALUES (?), ('100 %')", "?") == 2
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            database.query("DELETE FROM t")
        cluster.kill()
        with pytest.raises(psycopg2.OperationalError):
            database.query("SELECT 1")
        cluster.start()
        assert sorted(database.query("SELECT a FROM t")) == [("100 %",), ("?",)]
        locale = "SELECT datcollate FROM pg_database WHERE datname = current_database()"
        assert database.value(locale) == "C"
    finally:
        cluster.close()
    assert not cluster.folder.exists()


def test_clients(make_server: MakeServer) -> None:
    server = make_server(modules=[]).start()
    admin, user = server.register("admin", admin=True), server.register("user")
    assert admin.admin("GET", f"/v2/users/{user.user_id}")["admin"] is False
    with pytest.raises(MatrixError) as refused:
        user.admin("GET", "/v1/rooms")
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")

    room_id = admin.create_room("11", preset="private_chat")
    admin.invite(room_id, user.user_id)
    user.join(room_id)
    root = user.send_message(room_id, "Wordy")
    reply = admin.send_in_thread(room_id, root, "In the thread")
    user.edit(room_id, root, "Better")
    reaction = admin.react(room_id, root, "👍")
    assert [event["event_id"] for event in user.relations(room_id, root, "m.thread")] == [reply]
    assert user.event(room_id, root)["unsigned"]["m.relations"]["m.replace"]
    assert user.context(room_id, root)["event"]["event_id"] == root
    assert user.search("wordy") == [root]
    since = user.sync()["next_batch"]
    redaction = admin.redact(room_id, root)
    (seen,) = user.sync(since, 1000)["rooms"]["join"][room_id]["timeline"]["events"]
    assert seen["event_id"] == redaction
    assert "body" not in user.event(room_id, root)["content"]
    backwards = [event["event_id"] for event in user.messages(room_id, limit=3)]
    forwards = [event["event_id"] for event in user.messages(room_id, dir="f", limit=4)]
    assert backwards == forwards[::-1]
    assert reaction in backwards
    admin.send_state(room_id, "m.room.topic", {"topic": "T"})
    assert user.state(room_id)[("m.room.topic", "")]["content"] == {"topic": "T"}
    admin.kick(room_id, user.user_id)
    assert user.user_id not in admin.members(room_id)
    admin.ban(room_id, user.user_id)
    assert admin.members(room_id, membership="ban") == {user.user_id: "ban"}
    admin.leave(room_id)


def test_oldest_synapse_is_the_oldest_that_is_supported() -> None:
    assert f"matrix-synapse>={OLDEST.version}" in (REPOSITORY / "setup.cfg").read_text()


def test_example_is_loaded_by_synapse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its paths are seen from where Synapse is started.
    monkeypatch.chdir(tmp_path)
    write_keys(
        {
            "signing_key_path": "server.signing.key",
            "tls_certificate_path": "server.crt",
            "tls_private_key_path": "server.key",
        }
    )
    config = HomeServerConfig.load_config("", ["-c", str(EXAMPLE)])
    assert config.server.server_name == "127.0.0.1:18448"
    ((module, _),) = config.modules.loaded_modules
    assert module.__name__ == "RejectionRepair"
    assert module.__module__.split(".")[0] == "synapse_rejection_repair"
