"""Repairs that are killed, stopped, cancelled or overtaken by traffic end as all others do."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests

from tests.harness import compare, flavours
from tests.harness.brake import brake
from tests.harness.braked import PERSIST, Braked, braked_pair, keep, rewind
from tests.harness.client import Client, JsonDict, MatrixError, quoted
from tests.harness.damage import Damage, assert_whole, make_damage
from tests.harness.database import SqliteDatabase
from tests.harness.federation import Room
from tests.harness.hostile import HostilePeer, grab
from tests.harness.incident import promote
from tests.harness.losing import everywhere, lose, lose_message, lose_state
from tests.harness.postgres import Postgres
from tests.harness.repairing import dry_run, finished, health, progress, repair, start
from tests.harness.server import Server
from tests.harness.waiting import wait_for

RESTATE = "rejection_repair_restate"
INDEX = "rejection_repair_index"
EXTREMITIES = "rejection_repair_mend_extremities"
CURRENT_STATE = "update_current_state"
FORGET = "rejection_repair_forget_derived"
TABLES = "rejection_repair_create_tables"
CANCELLED = "rejection_repair_cancel_requested"
LARGE = 240
SMALL = 40
AT_ONCE = 100
"""How many events Synapse stores in one transaction."""


@dataclass(frozen=True)
class Rewound:
    """A large incident that each test finds as if no other had repaired it yet."""

    braked: Braked
    damage: Damage


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rewound, Path]]:
    folder = tmp_path_factory.mktemp("rewound")
    with braked_pair(folder) as braked:
        damage = make_damage(braked.pair.room("10"), LARGE)
        braked.pair.b.stop()
        copy = folder / "template.db"
        keep(braked.pair.b, copy)
        yield Rewound(braked, damage), copy


@pytest.fixture
def rewound(template: tuple[Rewound, Path]) -> Iterator[Rewound]:
    found, copy = template
    b = found.braked.pair.b
    rewind(b, copy)
    b.start()
    yield found
    found.braked.release()
    b.kill()


def begin(user: Client, room_id: str, **body: Any) -> str | None:
    """Starts a repair on a server that may die before it answers."""
    try:
        return start(user, room_id, **body)
    except requests.ConnectionError:
        return None


def only_repair(room: Room) -> JsonDict:
    answer = room.bob.repair_api("GET", "/repairs", params={"room_id": room.room_id})
    (found,) = answer["repairs"]
    return found


def assert_accepted_once(damage: Damage, job: JsonDict) -> None:
    """Asserts that a job accepted all that was lost, counted right, and journalled each once."""
    room = damage.room
    assert (job["status"], job["error"]) == ("complete", None)
    assert job["accepted"] == job["done"] == job["total"] == len(damage.lost)
    assert job["rejected"] == 0
    rows = room.b.database.query(
        "SELECT event_id, original_rows FROM rejection_repair_journal"
        " WHERE job_id = ? AND action = 'receive'",
        job["repair_id"],
    )
    assert sorted(event_id for event_id, _ in rows) == sorted(damage.lost)
    for event_id, text in rows:
        original = json.loads(text)
        assert [row["event_id"] for row in original["events"]] == [event_id]
        assert [row["reason"] for row in original["rejections"]] == ["auth_error"]
        assert len(original["event_json"]) == 1


# Kills.

KILLS = [
    pytest.param(PERSIST, 1, "before", {}, id="before the first events are committed"),
    pytest.param(PERSIST, 2, "after", {}, id="after some events are committed"),
    pytest.param(PERSIST, 3, "before", {"deliver": "history"}, id="in mid-run of history"),
    pytest.param(RESTATE, 1, "before", {}, id="before the states are restated"),
    pytest.param(RESTATE, 1, "after", {}, id="after some states are restated"),
]


@pytest.mark.parametrize(("transaction", "nth", "moment", "body"), KILLS)
def test_a_killed_repair_goes_on_by_itself(
    rewound: Rewound, transaction: str, nth: int, moment: str, body: JsonDict
) -> None:
    killed(rewound.braked, rewound.damage, transaction, nth, moment, body)


@pytest.mark.parametrize("braked", [flavours.POSTGRES], indirect=True)
def test_a_killed_repair_goes_on_by_itself_on_postgres(braked: Braked) -> None:
    damage = make_damage(braked.pair.room("12"), SMALL)
    killed(braked, damage, PERSIST, 2, "after", {})


def killed(
    braked: Braked, damage: Damage, transaction: str, nth: int, moment: str, body: JsonDict
) -> None:
    room = damage.room
    braked.kill_in(transaction, nth, moment)
    begin(room.bob, room.room_id, **body)
    braked.wait_dead()
    left = room.b.rejected(room.room_id)
    if transaction == PERSIST:
        assert left, "the repair was over already"
        assert (left == damage.lost) is ((nth, moment) == (1, "before"))
    room.b.start()
    job = finished(room.bob, only_repair(room)["repair_id"])
    assert_accepted_once(damage, job)
    assert_whole(room)


@pytest.mark.slow
def test_killed_at_every_turn(rewound: Rewound) -> None:
    braked, damage = rewound.braked, rewound.damage
    room = damage.room
    deaths = [
        (PERSIST, 1, "after"),
        (RESTATE, 1, "before"),
        (PERSIST, 1, "before"),
        ("rejection_repair_save_job", 1, "before"),
        (PERSIST, 1, "after"),
    ]
    counts = [len(room.b.rejected(room.room_id))]
    for death in deaths:
        braked.kill_in(*death)
        if room.b.running:
            begin(room.bob, room.room_id)
        else:
            room.b.launch()
        braked.wait_dead()
        counts.append(len(room.b.rejected(room.room_id)))
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] > 0, "nothing was left to do after the last kill"
    room.b.start()
    assert_accepted_once(damage, finished(room.bob, only_repair(room)["repair_id"]))
    assert_whole(room)


@dataclass(frozen=True)
class Motley:
    """A room of which a repair has to write all that is not receiving what was lost."""

    room: Room
    topic: str
    """Lost, and cited by nothing: the end of the repair brings it into the current state."""
    message: str
    """A message without its search row."""
    cured: str
    """A hostile event that is no longer marked as rejected."""
    tip: str
    """Another one, which has become the only forward extremity."""

    def done(self) -> list[bool]:
        """What of it is done, in the order in which a repair does it."""
        r, query = self.room.room_id, self.room.b.database.query
        rows = query("SELECT event_id FROM event_search WHERE event_id = ?", self.message)
        return [
            self.cured in self.room.b.rejected(r),
            len(rows) == 1,
            compare.extremities(self.room.b, r) == compare.extremities(self.room.a, r),
            compare.current_state(self.room.b, r)["m.room.topic", ""] == self.topic,
        ]


def motley(room: Room) -> Motley:
    r = room.room_id
    cured, tip = grab(room), grab(room)
    message = room.alice.send_message(r, "Cannot be found")
    everywhere(room, message)
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    everywhere(room, room.alice.send_message(r, "After it"))
    room.b.stop()
    for sql, *parameters in (
        ("UPDATE events SET rejection_reason = NULL WHERE event_id = ?", cured),
        ("DELETE FROM rejections WHERE event_id = ?", cured),
        ("DELETE FROM event_search WHERE event_id = ?", message),
        ("DELETE FROM event_forward_extremities WHERE room_id = ?", r),
        ("INSERT INTO event_forward_extremities (event_id, room_id) VALUES (?, ?)", tip, r),
    ):
        assert room.b.database.execute(sql, *parameters) > 0
    room.b.start()
    return Motley(room, topic, message, cured, tip)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@flavours.BOTH_DATABASES
def test_killed_at_all_that_is_not_receiving(braked: Braked, moment: str) -> None:
    # Whatever is written after the first kill, a resumed job has written.
    left = motley(braked.pair.room("12"))
    room, r, bob = left.room, left.room.room_id, left.room.bob
    assert left.done() == [False] * 4
    for turn, transaction in enumerate((PERSIST, INDEX, EXTREMITIES, CURRENT_STATE)):
        braked.kill_in(transaction, 1, moment)
        if room.b.running:
            begin(bob, r)
        else:
            room.b.launch()
        braked.wait_dead()
        done = turn + (moment == "after")
        assert left.done() == [True] * done + [False] * (4 - done)
    # It is forgotten as a job begins, and again if the current state is still to be written.
    for nth in (1, 2) if moment == "before" else (1,):
        written = left.done()
        braked.kill_in(FORGET, nth, moment)
        room.b.launch()
        braked.wait_dead()
        assert left.done() == (written if nth == 1 else [True] * 4)
    room.b.start()
    job = finished(bob, only_repair(room)["repair_id"])
    assert (job["status"], job["error"], job["accepted"]) == ("complete", None, 1)
    assert_whole(room, rejected=[left.cured, left.tip])

    facets = compare.database_facets(room, room.b)
    assert repair(bob, r)["accepted"] == 0
    assert compare.database_facets(room, room.b) == facets


@flavours.BOTH_DATABASES
def test_killed_while_the_tables_are_made(braked: Braked) -> None:
    b, room = braked.pair.b, braked.pair.room("12")
    lost = lose_message(room, "Lost")
    b.stop()
    whole = own_tables(b)
    for table in ("jobs", "journal", "seen", "alerts", "states"):
        b.database.execute(f"DROP TABLE rejection_repair_{table}")
    assert own_tables(b) == set()
    on_sqlite = isinstance(b.database, SqliteDatabase)
    for moment in ("amid", "before", "after"):
        braked.kill_in(TABLES, 1, moment)
        b.launch()
        braked.wait_dead()
        if moment == "amid":
            assert own_tables(b) == ({"rejection_repair_jobs"} if on_sqlite else set())
    # An earlier version made the table.
    b.database.execute("ALTER TABLE rejection_repair_alerts DROP COLUMN repair_id")
    assert not has_column(b, "repair_id")
    for moment in ("before", "after"):
        braked.kill_in(TABLES, 1, moment)
        b.launch()
        braked.wait_dead()
        # SQLite commits it at once.
        assert has_column(b, "repair_id") is (on_sqlite or moment == "after")
    b.start()
    assert own_tables(b) == whole and has_column(b, "repair_id")
    assert b.rejected(room.room_id) == {lost}
    assert repair(room.bob, room.room_id)["accepted"] == 1
    assert health(room.bob, room.room_id) == {}


def has_column(server: Server, column: str) -> bool:
    """Whether the table of alerts has a column."""
    try:
        server.database.query(f"SELECT {column} FROM rejection_repair_alerts")
    except (sqlite3.OperationalError, psycopg2.errors.UndefinedColumn):
        return False
    return True


def own_tables(server: Server) -> set[str]:
    """The module's own tables and their indexes."""
    of_names = "SELECT name FROM sqlite_master WHERE name"
    if not isinstance(server.database, SqliteDatabase):
        of_names = "SELECT relname FROM pg_class WHERE relname"
    rows = server.database.query(f"{of_names} LIKE ?", "rejection_repair_%")
    return {name for (name,) in rows}


@pytest.mark.parametrize("set_back", [False, True])
def test_killed_between_what_is_restated(braked: Braked, set_back: bool) -> None:
    # What has been restated hides that a merge behind it has not: neither of the events before
    # the merge was received by a repair. What is lost between them makes two batches of it.
    room = braked.pair.room("10")
    r, bob, database = room.room_id, room.bob, room.b.database
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    prevs = [room.alice.send_message(r, f"After it, {n}") for n in range(2)]
    everywhere(room, *prevs)
    lost = lose_message(room, "Between")
    peer = HostilePeer(room.a, r)
    content = {"msgtype": "m.text", "body": "Both together"}
    merge, merge_id = peer.forge("m.room.message", room.alice.user_id, content, prev_events=prevs)
    for server in (room.a, room.b):
        peer.send(server, merge)
    everywhere(room, merge_id)
    if set_back:
        # As if they had been forgotten when the topic was repaired.
        groups = database.query(
            "SELECT state_group, event_id FROM event_to_state_groups WHERE event_id IN (?, ?, ?)",
            *prevs,
            merge_id,
        )
        assert repair(bob, r, event_ids=[topic])["accepted"] == 1
        room.b.stop()
        database.execute_many(
            "UPDATE event_to_state_groups SET state_group = ? WHERE event_id = ?", groups
        )
        room.b.start()
    braked.kill_in(RESTATE, 1, "after")
    begin(bob, r)
    braked.wait_dead()
    assert room.b.rejected(r) == {lost}
    room.b.start()
    jobs = bob.repair_api("GET", "/repairs", params={"room_id": r})["repairs"]
    assert {finished(bob, job["repair_id"])["status"] for job in jobs} == {"complete"}
    assert_whole(room)


def test_a_repair_goes_on_after_sigterm(rewound: Rewound) -> None:
    damage, room = rewound.damage, rewound.damage.room
    rewound.braked.hold(2)
    job_id = start(room.bob, room.room_id)
    damage.wait_until_half_done()
    room.b.stop()
    rewound.braked.release()
    assert room.b.rejected(room.room_id), "the repair was over already"
    room.b.start()
    assert_accepted_once(damage, finished(room.bob, job_id))
    assert_whole(room)
    assert [e for e in room.b.errors_in_log() if "rejection_repair" in e] == []


@pytest.mark.slow
def test_a_repair_of_a_room_that_is_deleted_meanwhile(braked: Braked) -> None:
    room = braked.pair.room("10")
    r, bob, damage = room.room_id, room.bob, make_damage(room, SMALL)
    brake(braked.control, {"transaction": "rejection_repair_cancel_requested", "hold": 1})
    job_id = start(bob, r)
    damage.wait_until_half_done()
    path = "/_synapse/admin/v2/rooms"
    delete = bob.call("DELETE", path + quoted(r), {"purge": True, "force_purge": True})
    status = path + quoted("delete_status", delete["delete_id"])
    wait_for(lambda: bob.call("GET", status)["status"] == "complete", what="the room to go")
    braked.release()
    job = finished(bob, job_id)
    assert job["status"] == "failed"
    assert job["error"].endswith("it is not stored here any more")
    sql = "SELECT COUNT(*) FROM events WHERE room_id = ?"
    assert room.b.database.value(sql, r) == 0


# Cancelling.


@pytest.mark.parametrize("deliver", ["live", "history"])
def test_a_cancelled_repair_leaves_the_room_consistent(rewound: Rewound, deliver: str) -> None:
    damage, room = rewound.damage, rewound.damage.room
    r, bob = room.room_id, room.bob
    rewound.braked.hold(2)
    job_id = start(bob, r, deliver=deliver)
    damage.wait_until_half_done()
    bob.repair_api("POST", f"/repairs/{job_id}/cancel", {})
    rewound.braked.release()
    job = finished(bob, job_id)
    assert (job["status"], job["error"]) == ("cancelled", None)
    left = room.b.rejected(r)
    assert 0 < len(left) < len(damage.lost)
    assert job["accepted"] == len(damage.lost) - len(left)

    # What it has accepted is whole: nothing is wrong but for what is still rejected, ...
    assert health(bob, r) == {"wrongly_rejected": len(left)}
    assert compare.inconsistencies(room.b, r) == {}
    # ... and the state at each accepted event is that of the server that never erred.
    right, found = compare.states_after(room.a, r), compare.states_after(room.b, r)
    accepted = compare.shared_events(room) - left
    assert {i: found[i] for i in accepted} == {i: right[i] for i in accepted}
    tips = compare.extremities(room.b, r)
    assert tips and not tips & left
    if len(tips) == 1:
        assert compare.current_state(room.b, r) == found[next(iter(tips))]

    rest = repair(bob, r, deliver=deliver)
    assert rest["accepted"] == len(left)
    assert_whole(room)


# Traffic.


class Talker:
    """A user who sends without a pause, in a thread; every second event is cited by later ones."""

    def __init__(self, user: Client, room_id: str) -> None:
        # A session of its own: it is used from another thread.
        self._user = Client(user.url, user.user_id, user.access_token)
        self._room_id = room_id
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent: list[str] = []
        self.error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def has_sent(self) -> list[str]:
        """What was sent so far; raises what went wrong."""
        if self.error is not None:
            raise self.error
        return [*self.sent]

    def stop(self) -> list[str]:
        self._stopped.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.has_sent()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                number = len(self.sent)
                if number % 2:
                    profile = {"membership": "join", "displayname": f"{number}"}
                    sent = self._user.send_state(
                        self._room_id, "m.room.member", profile, self._user.user_id
                    )
                else:
                    sent = self._user.send_message(self._room_id, f"Meanwhile {number}")
                self.sent.append(sent)
                time.sleep(0.4)
        except Exception as e:
            self.error = e


@flavours.BOTH_DATABASES
def test_what_is_rejected_while_history_is_delivered(braked: Braked) -> None:
    # All that the room ends with is followed by what is stored as history then.
    room = braked.pair.room("10")
    r = room.room_id
    everywhere(room, room.bob.send_message(r, "The last that B has"))
    lost = [lose_message(room, f"Lost {number}") for number in range(3)]
    # Between that and the message that the room ends with.
    braked.hold(1, CANCELLED)
    repair_id = start(room.bob, r, deliver="history")
    wait_for(lambda: room.b.rejected(r) == {lost[-1]}, what="the history to be stored")
    hostile = grab(room)
    assert room.b.rejected(r) == {lost[-1], hostile}
    braked.release()
    job = finished(room.bob, repair_id)
    assert (job["status"], job["error"], job["accepted"]) == ("complete", None, 3)
    assert compare.extremities(room.b, r) == {lost[-1]}
    assert health(room.bob, r) == {"rejected": 1}
    assert room.b.errors_in_log() == []


@flavours.BOTH_DATABASES
def test_traffic_meanwhile(braked: Braked) -> None:
    room = braked.pair.room("10")
    r = room.room_id
    dora = room.a.register(f"dora{r[1:6]}".lower())
    dora.join(r)
    wait_for(lambda: dora.user_id in room.bob.members(r), what="B to see dora")
    damage = make_damage(room, SMALL)
    # More arrives while a plan is made than it takes to make it: no plan is up to date.
    brake(braked.control, {"transaction": "rejection_repair_followed", "seconds": 0.3})
    talkers = [Talker(user, r) for user in (room.alice, dora, room.bob, room.carol)]
    for talker in talkers:
        talker.start()
    wait_for(
        lambda: all(len(talker.has_sent()) > 1 for talker in talkers),
        what="everybody to say something",
    )
    before = {event_id for talker in talkers for event_id in talker.sent}
    job = finished(room.bob, start(room.bob, r), timeout=120)
    during = {event_id for talker in talkers for event_id in talker.sent} - before
    wait_for(
        lambda: all(talker.has_sent()[-1] not in before | during for talker in talkers),
        what="everybody to say something afterwards",
    )
    sent = {event_id for talker in talkers for event_id in talker.stop()}
    braked.release()
    assert (job["status"], job["error"]) == ("complete", None)
    assert job["accepted"] >= len(damage.lost)
    assert len(during) > 4, "nobody said anything during the repair"
    for user in (room.bob, room.alice):
        room.wait_everywhere(user.send_message(r, "Done."))
    for event_id in sent:
        room.wait_everywhere(event_id)
    assert room.b.rejected(r) == room.a.rejected(r) == set()
    assert compare.soft_failed(room.b, r) == compare.soft_failed(room.a, r) == set()
    assert sent <= {event["event_id"] for event in room.bob.messages(r)}
    assert sent <= {event["event_id"] for event in room.alice.messages(r)}
    assert_whole(room)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@flavours.BOTH_DATABASES
def test_killed_while_the_room_waits_for_the_last_pass(braked: Braked, moment: str) -> None:
    room = braked.pair.room("10")
    r = room.room_id
    users = [room.a.register(f"{name}{r[1:6]}".lower()) for name in ("dora", "emma", "fred")]
    for user in users:
        user.join(r)
    wait_for(lambda: {u.user_id for u in users} <= {*room.bob.members(r)}, what="B to see them")
    damage = make_damage(room, SMALL)
    # A plan is old before it is carried out, so there is a third pass, which is planned anew
    # inside the room's queue of writes: the seventh look at the journal. What it stores is all
    # that is stored in the room meanwhile.
    looks = {"transaction": "rejection_repair_journalled", "nth": 7}
    brake(
        braked.control,
        {"transaction": "rejection_repair_followed", "seconds": 0.4},
        {"transaction": PERSIST, "nth": 1, "kill": moment, "since": looks},
    )
    talkers = [Talker(user, r) for user in (room.alice, *users)]
    for talker in talkers:
        talker.start()
    wait_for(lambda: all(len(talker.has_sent()) > 1 for talker in talkers), what="the talkers")
    job_id = start(room.bob, r)
    braked.wait_dead()
    assert compare.inconsistencies(room.b, r) == {}
    room.b.start()
    job = finished(room.bob, job_id, timeout=120)
    sent = {event_id for talker in talkers for event_id in talker.stop()}
    assert (job["status"], job["error"], job["rejected"]) == ("complete", None, 0)
    assert job["accepted"] >= len(damage.lost)
    for event_id in (*sent, room.bob.send_message(r, "Done."), room.alice.send_message(r, "Yes.")):
        room.wait_everywhere(event_id)
    assert room.b.rejected(r) == room.a.rejected(r) == set()
    assert_whole(room)


# The database.


@pytest.mark.slow
@flavours.BOTH_DATABASES
def test_killed_after_it_took_this_server_out_of_the_room(braked: Braked) -> None:
    room = braked.pair.room("10")
    r, b = room.room_id, room.b
    x = lose(room, lambda: promote(room, room.carol, 50), type="m.room.power_levels")
    lost = [x, room.alice.send_message(r, "Lost")]
    for user in (room.carol, room.bob):
        room.alice.kick(r, user.user_id)
        sql = "SELECT event_id FROM room_memberships WHERE user_id = ? AND membership = 'leave'"
        lost.append(room.a.database.value(sql, user.user_id))
        b.wait_for_event(lost[-1])
    # A tells B nothing any more: what follows comes from elsewhere, and lacks nothing.
    peer = HostilePeer(room.a, r)
    for _ in range(5):
        made = [
            peer.forge(
                "m.room.message",
                room.alice.user_id,
                {"msgtype": "m.text", "body": f"No. {number}"},
                prev_events=[lost[-1]],
                depth=100 + len(lost),
            )
            for number in range(AT_ONCE // 4)
        ]
        peer.send(b, *(event for event, _ in made))
        lost += [event_id for _, event_id in made]
        for _, event_id in made:
            b.wait_for_event(event_id)
    assert b.rejected(r) == {*lost}

    braked.kill_in(PERSIST, 2, "before")
    begin(room.bob, r)
    braked.wait_dead()
    assert not b.rejected(r) & {*lost[:4]}
    at_once = AT_ONCE // 2 if isinstance(b.database, SqliteDatabase) else AT_ONCE
    assert len(b.rejected(r)) == len(lost) - at_once
    b.start()
    job = finished(room.bob, only_repair(room)["repair_id"])
    assert (job["status"], job["error"]) == ("complete", None)
    assert (job["accepted"], job["rejected"]) == (len(lost), 0)
    assert b.rejected(r) == set()
    for table in ("current_state_events", "sliding_sync_joined_rooms"):
        assert b.database.query(f"SELECT 1 FROM {table} WHERE room_id = ?", r) == []
    sql = "SELECT DISTINCT membership FROM local_current_membership WHERE room_id = ?"
    assert b.database.query(sql, r) == [("leave",)]
    # It is a room like any that this server has left.
    with pytest.raises(MatrixError) as refused:
        dry_run(room.bob, r)
    assert refused.value.status == 409
    assert b.errors_in_log() == []


@pytest.mark.postgres
def test_the_database_is_killed(tmp_path: Path) -> None:
    cluster = Postgres()
    try:
        cluster.start()
        with braked_pair(tmp_path / "servers", cluster.create_database()) as braked:
            room = braked.pair.room("10")
            r, bob = room.room_id, room.bob
            damage = make_damage(room, SMALL)
            brake(braked.control, {"transaction": PERSIST, "seconds": 1})
            job_id = start(bob, r)
            damage.wait_until_half_done()
            cluster.kill()
            time.sleep(1)
            cluster.start()
            braked.release()
            assert room.b.rejected(r), "the repair was over already"

            def over() -> JsonDict | None:
                try:
                    found = progress(bob, job_id)
                except MatrixError as e:
                    # The first who uses a connection that is dead is told so.
                    assert e.status == 500
                    return None
                return None if found["status"] in ("scheduled", "active") else found

            job = wait_for(over, timeout=60, what="the repair to end") or {}
            if job["status"] == "failed":
                # It says what happened, and leaves a room that can be repaired.
                assert job["error"]
                assert health(bob, r).keys() <= {"wrongly_rejected", "stale_state"}
                assert compare.inconsistencies(room.b, r) == {}
                assert repair(bob, r)["accepted"] == len(damage.lost) - job["accepted"]
            else:
                assert_accepted_once(damage, job)
            assert_whole(room)
            assert dry_run(bob, r)["summary"]["accept"] == 0
    finally:
        cluster.close()
