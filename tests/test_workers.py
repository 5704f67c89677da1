"""One Synapse of many processes: whichever is asked, one repairs, and all serve what is repaired.

A main process, two event persisters, a client worker and a worker for background tasks, with
PostgreSQL and Redis. Events come in at the client worker, and the persisters store them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.harness.brake import brake
from tests.harness.client import Client, JsonDict, MatrixError, quoted
from tests.harness.compare import differences, inconsistencies, search
from tests.harness.derived import derived
from tests.harness.federation import Pair, Room, running
from tests.harness.hostile import HostilePeer
from tests.harness.incident import Incident, make_incident, promote
from tests.harness.installs import NEWEST, OLDEST, Install
from tests.harness.log import ALERTS
from tests.harness.losing import lose_state
from tests.harness.postgres import Postgres
from tests.harness.redis import Redis
from tests.harness.remembered import PATH
from tests.harness.repairing import diagnosis, finished, health, progress, repair, start
from tests.harness.server import Server
from tests.harness.syncing import Waiting, sliding_sync
from tests.harness.waiting import wait_for
from tests.harness.workers import (
    BACKGROUND,
    CLIENTS,
    MAIN,
    PERSISTERS,
    PROCESSES,
    WorkerServer,
)
from tests.oldworld import MODULE, OldWorld, accepted, job_path, old_world
from tests.oldworld import finished as import_finished
from tests.test_import import compare as compare_import
from tests.test_import import read_back

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SERVING = (MAIN, CLIENTS)
"""The processes that clients reach."""


@dataclass(frozen=True)
class Deployment:
    """A, of one process, and B, of five."""

    a: Server
    b: WorkerServer
    control: Path
    log_from: int
    """How long PostgreSQL's log was before."""

    def room_on(self, writer: str, version: str) -> Room:
        """Returns a new room, whose events that process of B's writes."""
        while True:
            room = Pair(self.a, self.b).room(version)
            if self.b.writer_of(room.room_id) == writer:
                return room


@pytest.fixture(scope="module")
def deployment(
    postgres: Postgres, redis: Redis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("workers"), postgres, redis, NEWEST) as deployment:
        yield deployment


@contextmanager
def deployed(
    folder: Path, postgres: Postgres, redis: Redis, install: Install
) -> Iterator[Deployment]:
    control, log_from = folder / "brake.json", postgres.log_size
    a = Server(folder / "a", modules=[])
    b = WorkerServer(
        folder / "b",
        redis=redis,
        install=install,
        database=postgres.create_database(),
        modules=[
            {"module": MODULE, "config": {}},
            {"module": "tests.harness.brake.Brake", "config": {"control": str(control)}},
            {"module": "tests.harness.remembered.Remembered", "config": {}},
        ],
        config={"background_updates": {"sleep_enabled": False}},
    )
    with running(a):
        b.launch()
        try:
            b.wait_for_main()
            b.stop()
            b.log_path.unlink()
            # All processes, which start at once, are to find that they have to create them.
            for table in ("jobs", "journal", "seen", "alerts", "states"):
                b.database.execute(f"DROP TABLE IF EXISTS rejection_repair_{table}")
            b.launch_all()
            b.wait_healthy()
            yield Deployment(a, b, control, log_from)
        finally:
            b.stop()


@dataclass
class Story:
    """An incident in a room that one of the persisters writes, looked at before and repaired."""

    deployment: Deployment
    room: Room
    incident: Incident
    dave: Client
    """B's user whom alice has kicked, as B learns by the repair."""
    asked: str
    """The process that was asked for the repair."""
    answers: dict[str, dict[str, Any]]
    """What each process had to say of the room before."""
    dave_since: dict[str, str]
    outcome: JsonDict = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    """What a client was told of that hung in `/sync` at the client worker."""
    state_told: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def writer(self) -> str:
        return self._b.writer_of(self.room.room_id)

    @property
    def _b(self) -> WorkerServer:
        assert isinstance(self.room.b, WorkerServer)
        return self.room.b


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((NEWEST, PERSISTERS[0], "11", BACKGROUND), id="persister1"),
        pytest.param((NEWEST, PERSISTERS[1], "12", CLIENTS), id="persister2"),
        pytest.param(
            (OLDEST, PERSISTERS[0], "10", BACKGROUND), id="oldest", marks=pytest.mark.oldest
        ),
    ],
)
def story(
    request: pytest.FixtureRequest,
    postgres: Postgres,
    redis: Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    install, writer, version, asked = request.param
    if install is NEWEST:
        yield tell(request.getfixturevalue("deployment"), writer, version, asked)
        return
    with deployed(tmp_path_factory.mktemp("oldest"), postgres, redis, install) as deployment:
        yield tell(deployment, writer, version, asked)


def tell(deployment: Deployment, writer: str, version: str, asked: str) -> Story:
    """Lets an incident happen in a room that `writer` writes, and `asked` be asked to repair it."""
    room, b = deployment.room_on(writer, version), deployment.b
    r, bob = room.room_id, room.bob
    dave = b.register(f"dave-{writer}")
    dave.join(r, via=room.a.name)
    wait_for(lambda: dave.user_id in room.alice.members(r), what="A to see dave")
    incident = make_incident(room)
    room.alice.kick(r, dave.user_id)
    sql = (
        "SELECT event_id FROM current_state_events"
        " WHERE room_id = ? AND type = 'm.room.member' AND state_key = ?"
    )
    incident.lost.append(room.a.database.value(sql, r, dave.user_id))
    b.wait_for_event(incident.lost[-1])
    assert b.rejected(r) == set(incident.lost)

    since = {}
    for name in SERVING:
        warm(room, incident, b, name)
        at = b.at(name, dave)
        assert r in at.call("GET", "/_matrix/client/v3/joined_rooms")["joined_rooms"]
        since[name] = at.sync()["next_batch"]
    # Written in the background, some seconds after the rejections.
    wait_for(lambda: all(root["recorded"] for root in diagnosis(bob, r)["roots"]), what="causes")
    answers = {name: everything(b.at(name, bob), r) for name in PROCESSES}
    story = Story(deployment, room, incident, dave, asked, answers, since)

    at_worker = b.at(CLIENTS, bob)
    with Waiting(at_worker, r, at_worker.sync()["next_batch"]) as client:
        story.outcome = finished(b.at(MAIN, bob), start(b.at(asked, bob), r))
        client.wait_for({*incident.lost})
    story.told, story.state_told = {*client.room.timeline}, client.room.state
    return story


def warm(room: Room, incident: Incident, b: WorkerServer, name: str) -> None:
    """Looks at everything through one process, which then remembers how it was."""
    r, bob, carol = room.room_id, b.at(name, room.bob), b.at(name, room.carol)
    seen = [event["event_id"] for event in bob.messages(r)]
    assert not {*seen} & {*incident.lost}
    bob.state(r)
    bob.members(r)
    bob.members(r, membership=None)
    sliding_sync(bob, r)
    for event_id in incident.lost:
        for look in (bob.event, bob.context, bob.relations):
            with pytest.raises(MatrixError):
                look(r, event_id)
    for event_id in seen[:20]:
        bob.relations(r, event_id)
        bob.context(r, event_id)
    bob.call("GET", "/_matrix/client/v1" + quoted("rooms", r, "threads"))
    with pytest.raises(MatrixError, match="403"):
        carol.send_state(r, "m.room.topic", {"topic": "I may not"})


def everything(user: Client, room_id: str) -> dict[str, Any]:
    """Asks one process for all that it has to say of a room."""
    room = f"/rooms{quoted(room_id)}"
    return {
        "rooms": user.repair_api("GET", "/rooms"),
        **{
            what: user.repair_api("GET", f"{room}/{what}")
            for what in ("rejections", "diagnosis", "health")
        },
        "plan": user.repair_api("POST", f"{room}/repair", {}),
        "repairs": user.repair_api("GET", "/repairs"),
        "imports": user.repair_api("GET", "/imports"),
        "sources": user.repair_api("GET", "/sources"),
    }


def test_every_process_answers_alike(story: Story) -> None:
    answers = story.answers
    assert answers[MAIN]["plan"]["summary"]["accept"] == len(story.incident.lost)
    for name in PROCESSES:
        assert answers[name] == answers[MAIN], name


def test_the_process_that_writes_the_room_ran_the_job(story: Story) -> None:
    assert (story.outcome["status"], story.outcome["error"]) == ("complete", None)
    assert story.outcome["accepted"] == len(story.incident.lost)
    assert ran(story._b, story.outcome["repair_id"]) == [story.writer]


def ran(b: WorkerServer, job_id: str) -> list[str]:
    """The processes that began the job, each as often as it did."""
    return [
        name
        for name in PROCESSES
        for _ in re.findall(rf"(?:Repair|Import) {job_id} of \S+: begins", b.log_of(name))
    ]


def test_all_processes_raise_one_alert(story: Story) -> None:
    r, b = story.room.room_id, story._b

    def alerts(name: str) -> list[JsonDict]:
        answer = b.at(name, story.room.bob).repair_api("GET", "/alerts")
        return [alert for alert in answer["alerts"] if alert["room_id"] == r]

    wait_for(lambda: alerts(MAIN), 60, what="an alert")
    (alert,) = alerts(MAIN)
    assert alert["event_id"] in story.incident.lost
    for name in PROCESSES:
        assert alerts(name) == [alert]

    def told() -> int:
        lines = [line for name in PROCESSES for line in b.log_of(name).splitlines()]
        return sum(f" - {ALERTS} - " in line and alert["event_id"] in line for line in lines)

    # It is told of in the background, once it is there.
    wait_for(told, what="a line in a log")
    assert told() == 1


@pytest.mark.parametrize("name", SERVING)
def test_each_process_serves_the_repaired_room(story: Story, name: str) -> None:
    room, incident = story.room, story.incident
    bob = story._b.at(name, room.bob)
    seen = replace(room, bob=bob)
    wait_for(lambda: not differences(seen), 20, what=f"{name} to serve {differences(seen)}")
    words = incident.WORD
    assert search(bob, room.room_id, words) == search(room.alice, room.room_id, words)
    for event_id in incident.lost:
        assert bob.event(room.room_id, event_id)["event_id"] == event_id
        bob.context(room.room_id, event_id)
    _, sliding = sliding_sync(bob, room.room_id)
    assert {*incident.lost[-3:]} <= {e["event_id"] for e in sliding["timeline"]}
    assert health(bob, room.room_id) == {}


@pytest.mark.parametrize("name", SERVING)
def test_each_process_knows_who_may_do_what(story: Story, name: str) -> None:
    room, b = story.room, story._b
    carol, dave = b.at(name, room.carol), b.at(name, story.dave)
    event_id = carol.send_state(room.room_id, "m.room.topic", {"topic": f"Through {name}"})
    room.wait_everywhere(event_id)
    carol.redact(room.room_id, story.incident.messages[0])
    with pytest.raises(MatrixError, match="403"):
        dave.send_message(room.room_id, "Am I still here?")
    joined = dave.call("GET", "/_matrix/client/v3/joined_rooms")["joined_rooms"]
    assert room.room_id not in joined
    left = dave.sync(story.dave_since[name])["rooms"]["leave"][room.room_id]
    assert story.incident.lost[-1] in {e["event_id"] for e in left["timeline"]["events"]}
    assert b.rejected(room.room_id) == set()
    assert room.a.rejected(room.room_id) == set()


def test_a_client_at_a_worker_was_told(story: Story) -> None:
    assert {*story.incident.lost} <= story.told
    assert story.state_told["m.room.power_levels", ""] == story.incident.x


def test_no_process_logged_an_error(story: Story) -> None:
    assert story._b.errors_in_log() == []


def test_a_server_acl_holds_where_other_servers_ask(story: Story) -> None:
    deployment, b = story.deployment, story._b
    room = deployment.room_on(story.writer, "11")
    r, peer = room.room_id, HostilePeer(room.a, room.room_id)
    # Of addresses without a name, as all servers here have.
    acl = lose_state(room, "m.room.server_acl", {"allow": ["*"], "allow_ip_literals": False})
    b.wait_for_event(room.alice.send_message(r, "After it"))
    path = "/_matrix/federation/v1" + quoted("backfill", r) + "?limit=1&v=" + quoted(acl)[1:]

    def let_in() -> bool:
        try:
            return bool(peer.request(b, "GET", path))
        except requests.HTTPError as e:
            assert e.response.json()["errcode"] == "M_FORBIDDEN"
            return False

    brake(deployment.control, {"transaction": "update_current_state", "hold": 1})
    try:
        # So that Synapse tells nobody of it as of something new.
        job_id = start(b.at(story.asked, room.bob), r, deliver="history")
        wait_for(lambda: not b.rejected(r), what="the event to be accepted")
        # Synapse has told all processes of the event, which is not yet part of the current state.
        time.sleep(2)
        assert let_in()
    finally:
        brake(deployment.control)
    assert finished(room.bob, job_id)["status"] == "complete"
    wait_for(lambda: not let_in(), what="A to be kept out")


def test_cancelled_through_another_process(deployment: Deployment) -> None:
    b = deployment.b
    room = deployment.room_on(PERSISTERS[1], "11")
    lost = make_incident(room).lost
    brake(deployment.control, {"transaction": "persist_events", "hold": 1})
    job_id = start(b.at(MAIN, room.bob), room.room_id)
    wait_for(lambda: progress(room.bob, job_id)["status"] == "active", what="the job to begin")
    b.at(CLIENTS, room.bob).repair_api("POST", f"/repairs/{job_id}/cancel", {})
    brake(deployment.control)
    outcome = finished(b.at(BACKGROUND, room.bob), job_id)
    assert outcome["status"] == "cancelled"
    assert outcome["accepted"] < len(lost)


def test_what_waits_for_an_undo_is_made_again_by_another_process(deployment: Deployment) -> None:
    b = deployment.b
    room = deployment.room_on(PERSISTERS[1], "11")
    lost = {*make_incident(room).lost}
    before = derived(room)
    repair_id = repair(b.at(MAIN, room.bob), room.room_id)["repair_id"]
    assert derived(room) != before
    brake(deployment.control, {"transaction": "rejection_repair_undo", "hold": 1})
    path = "/repairs" + quoted(repair_id, "undo")
    job_id = room.bob.repair_api("POST", path, {"dry_run": False})["repair_id"]
    wait_for(lambda: progress(room.bob, job_id)["status"] == "active", what="the job to begin")
    # It has yet to get hold of the room's writes.
    time.sleep(0.5)
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(b.at(CLIENTS, room.bob).send_message, room.room_id, "Now, of all times")
        theirs = room.alice.send_message(room.room_id, "On top of it")
        time.sleep(1)
        assert not sent.done(), "it was to wait"
        brake(deployment.control)
        ours = sent.result()
    assert finished(room.bob, job_id)["status"] == "complete"
    b.wait_for_event(theirs)
    assert b.rejected(room.room_id) == {*lost, theirs}
    # Two more processes work that out.
    assert derived(room) == before
    cited = "SELECT auth_id FROM event_auth WHERE event_id = ?"
    followed = "SELECT prev_event_id FROM event_edges WHERE event_id = ?"
    for sql in (cited, followed):
        assert not lost & {i for (i,) in b.database.query(sql, ours)}
    assert inconsistencies(b, room.room_id) == {}
    room.a.wait_for_event(ours)
    assert repair(room.bob, room.room_id)["accepted"] == len(lost) + 1
    whole(room)


def whole(room: Room) -> None:
    """Asserts that clients see the room as on A, wherever they ask."""
    assert isinstance(room.b, WorkerServer)
    for name in SERVING:
        seen = replace(room, bob=room.b.at(name, room.bob))
        wait_for(lambda seen=seen: not differences(seen), 20, what=f"{name}: {differences(seen)}")  # type: ignore[misc]
        assert health(seen.bob, room.room_id) == {}


def test_no_process_remembers_what_state_was_taken_to_replace(deployment: Deployment) -> None:
    b = deployment.b
    room = deployment.room_on(PERSISTERS[1], "11")
    r = room.room_id
    lost = lose_state(room, "m.room.topic", {"topic": "Lost"})
    topic = room.alice.send_state(r, "m.room.topic", {"topic": "Not lost"})
    room.wait_everywhere(topic)

    def replaced(name: str) -> str | None:
        found: str | None = b.at(name, room.bob).event(r, topic)["unsigned"].get("replaces_state")
        return found

    before = {name: replaced(name) for name in SERVING}
    assert lost not in before.values()
    repair_id = repair(b.at(MAIN, room.bob), r)["repair_id"]
    for name in SERVING:
        wait_for(lambda name=name: replaced(name) == lost, what=f"{name} to forget")  # type: ignore[misc]
    undo = room.bob.repair_api("POST", f"/repairs/{repair_id}/undo", {"dry_run": False})
    assert finished(room.bob, undo["repair_id"])["status"] == "complete"
    for name in SERVING:
        wait_for(
            lambda name=name: replaced(name) == before[name],  # type: ignore[misc]
            what=f"{name} to forget again",
        )


def test_goes_on_beside_the_repair(deployment: Deployment) -> None:
    # Other processes check what comes in, and learn of the repair later than the one that does it.
    b = deployment.b
    room = deployment.room_on(PERSISTERS[0], "12")
    make_incident(room)
    over = threading.Event()
    sent: list[str] = []

    def talk() -> None:
        while not over.is_set():
            sent.append(room.alice.send_message(room.room_id, f"Meanwhile {len(sent)}"))
            time.sleep(0.1)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        repair(b.at(CLIENTS, room.bob), room.room_id)
    finally:
        over.set()
        thread.join()
    b.wait_for_event(sent[-1])
    assert b.rejected(room.room_id) == set()
    whole(room)


def test_no_process_resolves_states_as_before(deployment: Deployment) -> None:
    # The client worker stores what it resolves, with each event that merges branches.
    b = deployment.b
    room = deployment.room_on(PERSISTERS[1], "11")
    r, alice, bob = room.room_id, room.alice, b.at(CLIENTS, room.bob)

    before, peer = remembered(b, CLIENTS), HostilePeer(room.a, r)
    tips = peer.extremities()
    for branch in "ab":
        topic, event_id = peer.forge(
            "m.room.topic", alice.user_id, {"topic": branch}, state_key="", prev_events=tips
        )
        for server in (room.a, b):
            peer.send(server, topic)
            server.wait_for_event(event_id)
    room.a.wait_for_event(bob.send_message(r, "Merged"))
    resolved = remembered(b, CLIENTS) - before
    assert resolved
    lost = lose_state(room, "m.room.name", {"name": "Lost"})
    repair_id = repair(b.at(MAIN, room.bob), r)["repair_id"]
    for name in PROCESSES:
        wait_for(lambda name=name: not resolved & remembered(b, name), what=f"{name} to forget")  # type: ignore[misc]
    assert b.rejected(r) == set()
    undo = room.bob.repair_api("POST", f"/repairs/{repair_id}/undo", {"dry_run": False})
    assert finished(room.bob, undo["repair_id"])["status"] == "complete"
    assert b.rejected(r) == {lost}
    repair(room.bob, r)
    whole(room)


def remembered(b: WorkerServer, name: str) -> set[str]:
    """The resolutions of states that a process remembers."""
    answer = requests.get(b.url_of(name) + PATH, timeout=30)
    answer.raise_for_status()
    return {*answer.json()["keys"]}


def test_one_job_whomever_is_asked_and_whoever_dies(deployment: Deployment) -> None:
    b, writer = deployment.b, PERSISTERS[1]
    room = deployment.room_on(writer, "11")
    lost = {*make_incident(room).lost}
    brake(deployment.control, {"transaction": "persist_events", "nth": 2, "kill": "before"})
    job_id = asked_of_all_at_once(b, room)
    wait_for(lambda: not b.worker_runs(writer), what=f"{writer} to die")
    b.kill_worker(writer)
    assert 0 < len(b.rejected(room.room_id)) < len(lost)
    assert progress(room.bob, job_id)["status"] == "active"

    b.launch_worker(writer)
    b.wait_for_worker(writer)
    outcome = finished(b.at(CLIENTS, room.bob), job_id)
    assert (outcome["status"], outcome["error"]) == ("complete", None)
    assert outcome["accepted"] == len(lost)
    assert ran(b, job_id) == [writer, writer]
    whole(room)


def asked_of_all_at_once(b: WorkerServer, room: Room) -> str:
    """Asks every process for the same repair, and returns the id of the one that it becomes."""
    answers: list[str | MatrixError] = []

    def ask(name: str) -> None:
        try:
            answers.append(start(b.at(name, room.bob), room.room_id))
        except MatrixError as e:
            answers.append(e)

    threads = [threading.Thread(target=ask, args=(name,)) for name in PROCESSES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (job_id,) = (a for a in answers if isinstance(a, str))
    refused = [a for a in answers if isinstance(a, MatrixError)]
    assert [(e.status, e.errcode) for e in refused] == 4 * [(409, "M_CONFLICT")]
    return job_id


def test_repaired_once_by_itself(deployment: Deployment) -> None:
    # One process tells of alerts, so this is the only one that has to know.
    b, writer = deployment.b, PERSISTERS[0]
    b.kill_worker(BACKGROUND)
    file = b.folder / "homeserver.yaml"
    config = yaml.safe_load(file.read_text())
    config["modules"][0]["config"] = {"auto_repair": {"max_events": 100}}
    file.write_text(yaml.safe_dump(config))
    b.launch_worker(BACKGROUND)
    b.wait_for_worker(BACKGROUND)

    room = deployment.room_on(writer, "11")
    r = room.room_id
    b.sabotage(type="m.room.power_levels", room_id=r)
    root = promote(room, room.carol, 50)
    b.wait_for_event(root)
    b.sabotage_off()
    for number in range(4):
        room.alice.send_message(r, f"No. {number}")
    wait_for(lambda: b.rejected(r), what="the cascade")
    wait_for(lambda: not b.rejected(r), 60, what="the room to be repaired")
    (job,) = room.bob.repair_api("GET", "/repairs?room_id=" + quoted(r)[1:])["repairs"]
    assert finished(room.bob, job["repair_id"])["status"] == "complete"
    assert job["automatic"] is True and ran(b, job["repair_id"]) == [writer]
    (alert,) = room.bob.repair_api("GET", "/alerts?room_id=" + quoted(r)[1:])["alerts"]
    assert (alert["event_id"], alert["repair_id"]) == (root, job["repair_id"])
    whole(room)


def test_nothing_went_wrong_in_any_process(postgres: Postgres, deployment: Deployment) -> None:
    failed = postgres.failed(deployment.log_from)
    # Synapse begins a transaction anew that another one came before.
    assert [f for f in failed if "rejection_repair" in f[1] and "serialize" not in f[0]] == []
    assert deployment.b.errors_in_log() == []
    assert deployment.a.errors_in_log() == []


@pytest.mark.parametrize(
    "install", [NEWEST, pytest.param(OLDEST, marks=pytest.mark.oldest)], ids=["newest", "oldest"]
)
def test_old_history_into_a_room_of_a_persister(
    postgres: Postgres, redis: Redis, tmp_path: Path, install: Install
) -> None:
    with old_world(
        tmp_path,
        "11",
        b_database=postgres.create_database(),
        b_install=install,
        make_b=partial(WorkerServer, redis=redis),
        messages=24,
    ) as world:
        b, r = world.b, world.room_id
        assert isinstance(b, WorkerServer)
        writer = b.writer_of(r)
        theirs, before = accepted(world.a, r), accepted(b, r)
        at = {name: replace(world, bob=b.at(name, world.bob)) for name in SERVING}
        for there in at.values():
            look_at_what_is_missing(there, sorted(theirs)[::2])
        summaries = {
            name: replace(world, bob=b.at(name, world.bob)).dry_run() for name in PROCESSES
        }
        assert summaries[MAIN]["outliers"] > 0
        assert all(summary == summaries[MAIN] for summary in summaries.values())

        job = at[CLIENTS].import_room(wait=False, events_per_second=20)

        def imported() -> int:
            count: int = world.bob.repair_api("GET", job_path(job["import_id"]))["imported"]
            return count

        wait_for(imported, what="the import to begin")
        b.kill_worker(writer)
        assert accepted(b, r) < theirs | before
        b.launch_worker(writer)
        b.wait_for_worker(writer)
        job = import_finished(world.bob, job["import_id"])
        assert (job["status"], job["skipped"]) == ("complete", {})
        assert job["imported"] == len(theirs - before)
        assert ran(b, job["import_id"]) == [writer, writer]

        for there in at.values():
            compare_import(there, theirs, theirs - before)
            read_back(there)
            there.bob.members(r)
        for name in SERVING:
            sent = b.at(name, world.bob).send_message(r, f"Here I am, through {name}")
            for there in at.values():
                wait_for(
                    lambda there=there, sent=sent: (  # type: ignore[misc]
                        there.bob.messages(r, limit=10)[0]["event_id"] == sent
                    ),
                    what="the new message to be the newest",
                )
        assert b.errors_in_log() == []


def look_at_what_is_missing(world: OldWorld, event_ids: Iterable[str]) -> None:
    """Lets a process remember that it does not have the history, or only as outliers."""
    bob, r = world.bob, world.room_id
    bob.messages(r)
    bob.state(r)
    bob.members(r, membership=None)
    sliding_sync(bob, r)
    for event_id in event_ids:
        for look in (bob.event, bob.relations):
            try:
                look(r, event_id)
            except MatrixError as e:
                assert e.status in (403, 404)
