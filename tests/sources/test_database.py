"""Reading old databases, as small ones made here."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest

from synapse_rejection_repair.config import SourceConfig
from synapse_rejection_repair.domain.media import Mxc
from synapse_rejection_repair.domain.source import BEGINNING, Position, SourceEvent
from synapse_rejection_repair.sources.connection import ConnectionFailed
from synapse_rejection_repair.sources.database import SourceDatabase
from synapse_rejection_repair.sources.postgres import PostgresConnection
from synapse_rejection_repair.sources.schema import SchemaRefused
from synapse_rejection_repair.sources.sqlite import SqliteConnection
from tests.harness.explain import too_much
from tests.harness.postgres import Postgres
from tests.harness.process import REPOSITORY
from tests.harness.schema import create_schema

IMPORT_DOC = REPOSITORY / "docs" / "import.md"

# As Synapse 1.67 has it, where a later one has more columns.
SCHEMA = """
CREATE TABLE schema_version (lock CHAR(1), version INTEGER NOT NULL, upgraded BOOL);
CREATE TABLE events (topological_ordering BIGINT, event_id TEXT, type TEXT, room_id TEXT,
    outlier BOOL NOT NULL, depth BIGINT, stream_ordering INTEGER PRIMARY KEY);
CREATE TABLE event_json (event_id TEXT, room_id TEXT, internal_metadata TEXT, json TEXT);
CREATE TABLE event_edges (event_id TEXT, prev_event_id TEXT, room_id TEXT, is_state BOOL);
CREATE TABLE rejections (event_id TEXT, reason TEXT, last_check TEXT);
CREATE TABLE event_to_state_groups (event_id TEXT, state_group BIGINT);
CREATE TABLE state_groups_state (state_group BIGINT, room_id TEXT, type TEXT, state_key TEXT,
    event_id TEXT);
CREATE TABLE state_group_edges (state_group BIGINT, prev_state_group BIGINT);
CREATE TABLE rooms (room_id TEXT, is_public BOOL, creator TEXT, room_version TEXT);
INSERT INTO schema_version VALUES ('X', 72, true);
INSERT INTO rooms VALUES ('!r:x', true, '@a:x', '9');
"""


class Old:
    """An old database, being filled."""

    def __init__(self) -> None:
        self.statements: list[str] = [SCHEMA]

    def event(
        self,
        event_id: str,
        depth: int,
        stream: int,
        *,
        text: str | None = '{"type": "m.x"}',
        outlier: bool = False,
        group: int | None = None,
        metadata: str = "{}",
        room_id: str = "!r:x",
    ) -> None:
        add = self.statements.append
        add(
            "INSERT INTO events VALUES"
            f" ({depth}, '{event_id}', 'm.x', '{room_id}', {outlier}, {depth}, {stream})"
        )
        if text is not None:
            add(
                f"INSERT INTO event_json VALUES ('{event_id}', '{room_id}', '{metadata}', '{text}')"
            )
        if group is not None:
            add(f"INSERT INTO event_to_state_groups VALUES ('{event_id}', {group})")

    def state(self, group: int, before: int | None, *entries: tuple[str, str, str]) -> None:
        for type_, key, event_id in entries:
            self.statements.append(
                f"INSERT INTO state_groups_state VALUES"
                f" ({group}, '!r:x', '{type_}', '{key}', '{event_id}')"
            )
        if before is not None:
            self.statements.append(f"INSERT INTO state_group_edges VALUES ({group}, {before})")

    def opened_on(self, place: Any) -> SourceDatabase:
        connection: Any
        if isinstance(place, Path):
            with sqlite3.connect(place) as writing:
                writing.executescript(";".join(self.statements))
            writing.close()
            connection = SqliteConnection(str(place))
        else:
            place.execute(";".join(self.statements))
            connection = PostgresConnection({**place.arguments, "cp_min": 1, "cp_max": 5})
        return SourceDatabase(connection)


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)],
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "sqlite":
        # Nothing of the name may be taken for a part of the URI.
        yield tmp_path / "a?b=c#%d.db"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        yield postgres.create_database()


def ids(events: list[SourceEvent]) -> list[str]:
    return [event.event_id for event in events]


def test_history_in_the_old_servers_order(place: Any) -> None:
    old = Old()
    for event_id, depth, stream in (("$c", 2, 5), ("$b", 2, -3), ("$a", 1, 7), ("$d", 9, 1)):
        old.event(event_id, depth, stream)
    old.event("$out", 1, 20, outlier=True)
    old.event("$other", 1, 21, room_id="!other:x")
    old.event("$gone", 3, 22)
    old.statements.append("INSERT INTO rejections VALUES ('$gone', 'auth_error', '1')")
    database = old.opened_on(place)

    everything = database.history("!r:x", BEGINNING, 100)
    assert ids(everything) == ["$a", "$b", "$c", "$gone", "$d"]
    pages, after = [], BEGINNING
    while page := database.history("!r:x", after, 2):
        pages += ids(page)
        after = page[-1].position
    assert pages == ids(everything)
    after = Position(2, -3)
    assert [i for _, i in database.ids("!r:x", after, 9, rejected=False)] == ["$c", "$d"]
    assert [i for _, i in database.ids("!r:x", after, 9, rejected=True)] == ["$c", "$gone", "$d"]
    assert database.rooms() == {"!r:x": 4, "!other:x": 1}
    assert database.room_version("!r:x") == "9"
    assert database.room_version("!no:x") is None
    assert database.positions("!r:x", ["$a", "$out", "$no"]) == {"$a": Position(1, 7)}
    assert database.events("!r:x", ["$out", "$other", "$no"]).keys() == {"$out"}
    assert database.events("!r:x", ["$out"])["$out"].outlier
    assert database.verify_keys([("x", "ed25519:1")]) == {}
    database.close()


def test_a_few_events_are_found_without_reading_the_room(tmp_path: Path) -> None:
    """No database of Synapse's is ever analysed: SQLite knows of none how large it is."""
    place = tmp_path / "old.db"
    create_schema(place)
    connection = Overheard(str(place))
    database = SourceDatabase(connection)
    three = ["$a", "$b", "$c"]
    database.events("!r:x", three)
    database.positions("!r:x", three)
    database.states.entries(1, [("m.room.topic", ""), ("m.room.member", "@u:x")])
    database.states.tracked([1, 2, 3], "x")
    database.history("!r:x", BEGINNING, 10)
    for rejected in (False, True):
        database.ids("!r:x", BEGINNING, 10, rejected=rejected)
    database.media._server_name = "x"
    database.media.find([Mxc(server, i) for server in "xy" for i in "abc"])
    assert len(connection.heard) > 10
    whole = [(sql, *how) for sql in connection.heard for how in too_much(connection.raw, sql)]
    assert whole == []
    first = [connection.plan(sql)[0] for sql in connection.heard]
    for sql, how in zip(connection.heard, first, strict=True):
        assert "event_id IN" not in sql or "event_id=?" in how, sql
    for needed, times in (
        ("(room_id=? AND topological_ordering=? AND stream_ordering>?)", 3),
        ("(state_group=? AND type=? AND state_key=?)", 1),
    ):
        assert sum(needed in how for how in first) == times, needed


class Overheard(SqliteConnection):
    """A connection that notes what it is asked."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.heard: list[str] = []
        self.raw = self._connection

    def query(self, sql: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        if "pragma" not in sql and "schema_version" not in sql:
            self.heard.append(sql)
        return super().query(sql, args)

    def plan(self, sql: str) -> list[str]:
        rows = self.raw.execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?"))
        return [how for *_, how in rows]


def test_what_is_said_of_an_event(place: Any) -> None:
    old = Old()
    old.event("$a", 1, 1, text='{"type": "m.room.encrypted", "prev_events": ["$0"]}', group=4)
    old.event("$b", 2, 2, text="{", metadata='{"soft_failed": true}')
    old.event("$c", 3, 3, text=None, metadata='{"soft_failed": 1}')
    old.event("$d", 4, 4, text="[]")
    old.event("$no", 5, 5)
    old.event("$child", 6, 6)
    old.statements.append("INSERT INTO rejections VALUES ('$no', 'auth_error', '1')")
    a, b, c, d, no, child = old.opened_on(place).history("!r:x", BEGINNING, 9)
    assert a.encrypted and a.state_group == 4 and a.prev_event_ids == ("$0",)
    assert (b.pdu, b.soft_failed, c.pdu, c.soft_failed, d.pdu) == (None, True, None, False, None)
    assert (no.rejected, child.rejected) == (True, False)


def test_what_is_no_utf_8_is_read_all_the_same(tmp_path: Path) -> None:
    old = Old()
    for number, event_id in enumerate(("$a", "$b", "$c")):
        old.event(event_id, number, number + 1)
    for event_id, json in (("$b", b'{"\xff"}'), ("$c", b'{"type": "m.\xff"}')):
        old.statements.append(
            f"UPDATE event_json SET json = CAST(x'{json.hex()}' AS TEXT)"
            f" WHERE event_id = '{event_id}'"
        )
    events = old.opened_on(tmp_path / "old.db").history("!r:x", BEGINNING, 9)
    assert [e.pdu for e in events] == [
        {"type": "m.x"},
        None,
        {"type": "m.\N{REPLACEMENT CHARACTER}"},
    ]


def test_state_before_events(place: Any) -> None:
    old = Old()
    old.state(1, None, ("m.room.create", "", "$create"), ("m.room.topic", "", "$t1"))
    old.state(2, 1, ("m.room.topic", "", "$t2"))
    # Flattened: the topic that was before is not to be had.
    old.state(3, None, ("m.room.create", "", "$create"), ("m.room.topic", "", "$t3"))
    topic = '{"type": "m.room.topic", "state_key": ""}'
    old.event("$m", 1, 1, group=2)
    old.event("$t2", 2, 2, text=topic, group=2)
    old.event("$t3", 3, 3, text=topic, group=3)
    # That one says what it has replaced.
    said = '{"type": "m.room.topic", "state_key": "", "unsigned": {"replaces_state": "$t3"}}'
    old.state(4, None, ("m.room.create", "", "$create"), ("m.room.topic", "", "$t4"))
    old.event("$t4", 4, 4, text=said, group=4)
    old.event("$none", 5, 5)
    # Rejected as it came, and marked as rejected after it had been accepted.
    old.event("$no", 6, 6, text=topic, group=2)
    old.state(5, 2, ("m.room.topic", "", "$late"))
    old.event("$late", 7, 7, text=topic, group=5)
    for event_id in ("$no", "$late"):
        old.statements.append(f"INSERT INTO rejections VALUES ('{event_id}', 'auth_error', '1')")
    database = old.opened_on(place)
    message, second, third, fourth, none, *rejected = database.history("!r:x", BEGINNING, 9)
    create = {("m.room.create", ""): "$create"}
    assert database.states.state_before(message) == {**create, ("m.room.topic", ""): "$t2"}
    assert database.states.state_before(second) == {**create, ("m.room.topic", ""): "$t1"}
    assert database.states.state_before(third) == create
    assert database.states.state_before(fourth) == {**create, ("m.room.topic", ""): "$t3"}
    assert database.states.state_before(none) == {}
    for event in rejected:
        assert database.states.state_before(event) == {**create, ("m.room.topic", ""): "$t2"}
    # Where what was before is not to be had, it is not guessed either.
    before = database.states.groups_before([message, second, third, fourth, none, *rejected])
    assert before == {"$m": 2, "$t2": 1, "$no": 2, "$late": 2}


def test_entries_of_states(place: Any) -> None:
    create, topic, name = (("m.room." + what, "") for what in ("create", "topic", "name"))
    old = Old()
    old.state(1, None, (*create, "$create"), (*topic, "$t1"))
    old.state(2, 1, (*topic, "$t2"))
    old.state(3, 2, (*name, "$n"))
    old.state(4, 3, (*topic, "$t4"))
    # Nonsense must not be gone round for ever.
    old.state(5, 6, (*topic, "$t5"))
    old.state(6, 5, (*name, "$n6"))
    states = old.opened_on(place).states
    for _ in range(2):
        assert states.entries(3, [topic]) == {topic: "$t2"}
        assert states.entries(4, [topic, create]) == {topic: "$t4", create: "$create"}
        assert states.entries(1, [topic, name]) == {topic: "$t1"}
        assert states.entries(4, [topic, create, name])[name] == "$n"
        # Each of its parts is asked for, but not the pair.
        assert states.entries(1, [create, ("m.room.topic", "other")]) == {create: "$create"}
        assert states.entries(2, []) == {}
        assert states.entries(5, [topic, name]) == {topic: "$t5", name: "$n6"}


def test_what_decides_visibility(place: Any) -> None:
    old = Old()
    old.state(1, None, ("m.room.history_visibility", "", "$v1"), ("m.room.name", "", "$n"))
    old.state(2, 1, ("m.room.member", "@u:x", "$j"), ("m.room.member", "@u:yx", "$k"))
    old.state(3, 2, ("m.room.history_visibility", "", "$v2"))
    old.state(4, 3, ("m.room.member", "@u:x", "$l"))
    old.state(5, None)
    database = old.opened_on(place)
    user = ("m.room.member", "@u:x")
    expected = {
        1: ("$v1", {}),
        2: ("$v1", {user: "$j"}),
        3: ("$v2", {user: "$j"}),
        4: ("$v2", {user: "$l"}),
        5: (None, {}),
    }
    assert database.states.tracked([4], "x") == {4: expected[4]}
    assert database.states.tracked([1, 2, 3, 4, 5], "x") == expected


def test_nothing_can_be_written(place: Any) -> None:
    database = Old().opened_on(place)
    for sql in ("DELETE FROM rooms", "CREATE TABLE t (a TEXT)"):
        with pytest.raises(ConnectionFailed):
            database._connection.query(sql)


def test_writers_are_not_kept_waiting(tmp_path: Path) -> None:
    old = Old()
    old.event("$a", 1, 1)
    place = tmp_path / "old.db"
    database = old.opened_on(place)
    assert database.rooms() == {"!r:x": 1}
    with sqlite3.connect(place, timeout=0) as writer:
        writer.execute("DELETE FROM events")
    assert database.rooms() == {}


def test_immutable_files_have_no_log_left(tmp_path: Path) -> None:
    place = tmp_path / "old.db"
    old = Old()
    old.event("$a", 1, 1)
    with sqlite3.connect(place) as writing:
        writing.execute("PRAGMA journal_mode = WAL")
        writing.executescript(";".join(old.statements))
        with pytest.raises(ConnectionFailed, match="-wal") as error:
            SqliteConnection(str(place), immutable=True)
        assert str(tmp_path) not in str(error.value)
        # Whoever reads the log too sees what is in it.
        database = SourceDatabase(SqliteConnection(str(place)))
        assert database.rooms() == {"!r:x": 1}
        database.close()
    writing.close()
    Path(f"{place}-wal").touch()
    assert SourceDatabase(SqliteConnection(str(place), immutable=True)).rooms() == {"!r:x": 1}


@pytest.mark.postgres
def test_the_documented_role_may_read_and_nothing_else(postgres: Postgres) -> None:
    (sql,) = re.findall(r"```sql\n(.*?)```", IMPORT_DOC.read_text(), re.DOTALL)
    place = postgres.create_database()
    old = Old()
    old.event("$a", 1, 1)
    old.opened_on(place).close()
    place.execute(sql)
    connection = PostgresConnection({**place.arguments, "user": "reader", "password": "…"})
    database = SourceDatabase(connection)
    assert database.rooms() == {"!r:x": 1}
    assert ids(database.history("!r:x", BEGINNING, 9)) == ["$a"]
    database.close()
    reader = psycopg2.connect(**{**place.arguments, "user": "reader"})
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        reader.cursor().execute("DELETE FROM events")
    reader.close()


def test_immutable_files_need_nothing_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    place = folder / "old.db"
    Old().opened_on(place).close()
    connection = SqliteConnection(str(place), immutable=True)
    assert SourceDatabase(connection).rooms() == {}
    assert os.listdir(folder) == ["old.db"]


def test_damaged_files(tmp_path: Path) -> None:
    old = Old()
    for number in range(2000):
        old.event(f"$event{number}", number, number + 1, text='{"body": "' + "x" * 200 + '"}')
    place = tmp_path / "old.db"
    old.opened_on(place).close()
    with place.open("r+b") as file:
        file.truncate(place.stat().st_size // 2)
    with pytest.raises(ConnectionFailed, match="damaged or truncated") as error:
        SourceDatabase(SqliteConnection(str(place))).history("!r:x", BEGINNING, 5000)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("left", [0, 100, 4096])
def test_files_that_are_cut_while_they_are_read(
    tmp_path: Path, journal_mode: str, left: int
) -> None:
    old = Old()
    old.statements.insert(0, f"PRAGMA journal_mode = {journal_mode}")
    for number in range(200):
        old.event(f"$event{number}", number, number + 1)
    place = tmp_path / "old.db"
    database = old.opened_on(place)
    assert len(database.history("!r:x", BEGINNING, 10)) == 10
    whole = place.read_bytes()
    os.truncate(place, left)
    with pytest.raises(ConnectionFailed, match="damaged or truncated"):
        database.history("!r:x", Position(9, 10), 10)
    database.close()
    place.write_bytes(whole)
    database = SourceDatabase(SqliteConnection(str(place)))
    assert ids(database.history("!r:x", Position(9, 10), 1)) == ["$event10"]


@pytest.mark.postgres
def test_connections_that_are_ended_while_they_are_read(postgres: Postgres) -> None:
    place = postgres.create_database()
    database = Old().opened_on(place)
    place.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for _ in range(2):
        with pytest.raises(ConnectionFailed, match="has ended the connection"):
            database.rooms()
    database.close()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DROP TABLE schema_version", "no database of Synapse's"),
        ("DELETE FROM schema_version", "ever used"),
        ("UPDATE schema_version SET version = 71", "72 is the oldest"),
        ("DROP TABLE rejections", "'rejections' has no column event_id"),
        ("ALTER TABLE event_json RENAME COLUMN json TO text", "'event_json' has no column json"),
    ],
)
def test_foreign_databases(tmp_path: Path, sql: str, words: str) -> None:
    old = Old()
    old.statements.append(sql)
    with pytest.raises(SchemaRefused, match=words):
        old.opened_on(tmp_path / "old.db")


def test_columns_that_may_be_missing(tmp_path: Path) -> None:
    old = Old()
    old.statements.append("ALTER TABLE rooms DROP COLUMN room_version")
    database = old.opened_on(tmp_path / "old.db")
    assert database.room_version("!r:x") is None


def test_nothing_shows_where_a_database_is() -> None:
    config = SourceConfig("psycopg2", {"host": "secret.example.org", "password": "hunter2"})
    assert "secret" not in repr(config) and "hunter2" not in repr(config)
    with pytest.raises(ConnectionFailed) as error:
        PostgresConnection({"host": "127.0.0.1", "port": 1, "password": "hunter2"})
    assert "127" not in str(error.value) and "hunter2" not in str(error.value)
    with pytest.raises(ConnectionFailed, match="not there"):
        SqliteConnection("/nowhere/secret.db").query("SELECT 1")
