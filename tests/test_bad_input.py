"""What makes no sense is refused with a sentence, changes nothing, and is no error of ours."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.harness.client import quoted
from tests.harness.database import Database, SqliteDatabase
from tests.harness.federation import Pair
from tests.harness.flavours import NEWEST, POSTGRES
from tests.harness.incident import make_incident
from tests.harness.log import errors
from tests.harness.waiting import wait_for
from tests.openapi import BASE, Contract, Judge

pytestmark = pytest.mark.parametrize("pair", [NEWEST, POSTGRES], indirect=True)

LONG = "a" * 10_000
HUGE = 10**30
MAX = 2**53 - 1
BAD, GONE, CONFLICT = "M_INVALID_PARAM", "M_NOT_FOUND", "M_CONFLICT"
STATUS = {
    BAD: 400,
    "M_NOT_JSON": 400,
    "M_BAD_JSON": 400,
    GONE: 404,
    CONFLICT: 409,
    "M_UNSUPPORTED_ROOM_VERSION": 409,
}

# Tables with a column of one of these names are all that a repair could ever touch, ...
COLUMNS = ("event_id", "room_id", "state_group")
# ... and Synapse itself writes into some of them when nobody has asked for anything.
BY_ITSELF = (
    "_temp_",
    "destination_rooms",
    "event_push_",
    "federation_inbound_events_staging",
    # The module notes rejections a few seconds after they happened.
    "rejection_repair_alerts",
    "rejection_repair_seen",
    "room_stats_",
    "user_",
    "users_",
)


@dataclass
class Case:
    """A request that is refused. In its strings, names of `World.names` stand in braces."""

    id: str
    path: str
    errcode: str
    says: str = ""
    """A part of the sentence."""
    method: str = "GET"
    body: Any = None
    raw: bytes | None = None
    """A body that is no JSON, or none that Python would write."""
    content_type: str = "application/json"


@dataclass
class World:
    judge: Judge
    names: dict[str, str]
    plan: Any
    """What a dry run said of the broken room before all this."""
    before: dict[str, str] = field(default_factory=dict)
    read: int = 0
    """How much of B's log has been looked at."""


# The cases.

REPAIR = "/v1/rooms/{broken}/repair"
EVERYWHERE = (
    ("GET", "/v1/rooms"),
    ("GET", "/v1/rooms/{broken}/rejections"),
    ("GET", "/v1/rooms/{broken}/diagnosis"),
    ("GET", "/v1/rooms/{broken}/health"),
    ("POST", REPAIR),
    ("GET", "/v1/alerts"),
    ("GET", "/v1/repairs"),
    ("GET", "/v1/repairs/{done}"),
    ("POST", "/v1/repairs/{done}/cancel"),
    ("POST", "/v1/repairs/{done}/undo"),
    ("POST", "/v1/events/{x}/peers"),
)
OF_ROOMS = (("GET", "rejections"), ("GET", "diagnosis"), ("GET", "health"), ("POST", "repair"))
NO_CHARACTERS = "contains characters that no identifier can have"


def _rooms() -> Iterator[Case]:
    for id, room, errcode, says in (
        ("unknown", "%21unknown%3Aexample.org", GONE, "Room !unknown:example.org is not known"),
        ("unknown-v12", "%21" + "a" * 43, GONE, "is not known to this server"),
        ("sql", "%21%27%3B%20DROP%20TABLE%20events%3B--", GONE, "is not known"),
        ("format", "%21%25s%28x%29%7B%7D", GONE, "!%s(x){} is not known"),
        ("slash", "%21a%2Fb", GONE, "!a/b is not known"),
        ("emoji", "%21%F0%9F%98%80", GONE, "is not known"),
        ("newline", "%21%0A", GONE, "is not known"),
        ("longest", "%21" + "a" * 254, GONE, "is not known"),
        ("too-long", "%21" + "a" * 255, BAD, "'room_id' must be a room id"),
        ("long-in-bytes", "%21" + "%F0%9F%98%80" * 64, BAD, "'room_id' must be a room id"),
        ("very-long", "%21" + LONG, BAD, "'room_id' must be a room id"),
        ("sigil-alone", "%21", BAD, "'room_id' must be a room id"),
        ("alias", "%23alias%3Aexample.org", BAD, "'room_id' must be a room id"),
        ("no-sigil", "room", BAD, "'room_id' must be a room id"),
        ("event", "{x}", BAD, "'room_id' must be a room id"),
        ("nul", "%21a%00b", BAD, f"'room_id' {NO_CHARACTERS}"),
        ("invalid-utf-8", "%21%FF", BAD, NO_CHARACTERS),
        ("half-a-character", "%21%C3", BAD, NO_CHARACTERS),
        ("surrogate", "%21%ED%A0%80", BAD, NO_CHARACTERS),
        ("replacement", "%21%EF%BF%BD", BAD, NO_CHARACTERS),
    ):
        for method, what in OF_ROOMS:
            body = {"dry_run": False} if method == "POST" else None
            yield Case(f"room-{id}-{what}", f"/v1/rooms/{room}/{what}", errcode, says, method, body)
    for room, errcode, says in (
        ("left", CONFLICT, "This server is not in room {left}"),
        ("invited", CONFLICT, "nothing is done to a room without a joined local user"),
        ("partial", CONFLICT, "partial state"),
        ("odd", "M_UNSUPPORTED_ROOM_VERSION", "org.example.odd"),
    ):
        for dry_run in (True, False):
            yield Case(
                f"room-{room}-{dry_run}",
                f"/v1/rooms/{{{room}}}/repair",
                errcode,
                says,
                "POST",
                {"dry_run": dry_run},
            )


def _repairs() -> Iterator[Case]:
    for id, repair, errcode, says in (
        ("unknown", "abc", GONE, "There is no repair abc"),
        ("dots", "%2E%2E", GONE, "There is no repair .."),
        ("sql", "%27%20OR%20%271%27%3D%271", GONE, "There is no repair"),
        ("emoji", "%F0%9F%98%80", GONE, "There is no repair"),
        ("long", LONG, BAD, "'id' must have at most 255 bytes"),
        ("nul", "%00", BAD, f"'id' {NO_CHARACTERS}"),
        ("invalid-utf-8", "%FF", BAD, NO_CHARACTERS),
        ("surrogate", "%ED%BF%BF", BAD, NO_CHARACTERS),
    ):
        yield Case(f"repair-{id}", f"/v1/repairs/{repair}", errcode, says)
        for what in ("cancel", "undo"):
            yield Case(f"{what}-{id}", f"/v1/repairs/{repair}/{what}", errcode, says, "POST")
    cancel = "/v1/repairs/{done}/cancel"
    yield Case("cancel-over", cancel, CONFLICT, "is over already: complete", "POST")
    yield Case("cancel-key", cancel, BAD, "'force' is not known", "POST", {"force": []})
    undo = "/v1/repairs/{done}/undo"
    yield Case("undo-key", undo, BAD, "'dryrun' is not known", "POST", {"dryrun": False})
    yield Case("undo-type", undo, BAD, "must be true or false", "POST", {"dry_run": 0})


def _queries() -> Iterator[Case]:
    for method, path in EVERYWHERE:
        for id, query, says in (
            ("unknown", "dryrun=true", "'dryrun' is not known"),
            ("no-value", "dryrun", "'dryrun' is not known"),
            ("case", "Limit=1", "'Limit' is not known"),
            ("nul", "a%00=1", "is not known"),
            ("odd-bytes", "%FF=1", "is not known"),
            ("nothing", "=", "'' is not known"),
        ):
            body = {"dry_run": False} if path == REPAIR else None
            yield Case(f"query-{id}-{method}-{path}", f"{path}?{query}", BAD, says, method, body)

    lists = ("/v1/rooms", "/v1/rooms/{broken}/rejections", "/v1/alerts", "/v1/repairs")
    numbers = ["", "abc", "1.5", "1e2", "%201", "%2B1", "0x1", "%D9%A3", "true", "-1", str(HUGE)]
    numbers += ["--1", "-", "9" * 5000]
    wrong = {
        "limit": (["0", "1001", *numbers], "must be a whole number from 1 to 1000"),
        "from": ([str(MAX + 1), *numbers], f"must be a whole number from 0 to {MAX}"),
        "dir": (["", "x", "F", "forwards", "f%20"], "must be 'f' (forwards) or 'b'"),
        "order_by": (["", "json", "event_id;", "1", "room_id,name"], "must be one of: "),
    }
    for path in lists:
        for name, (values, says) in wrong.items():
            # All lists read their pages with the same code: of the others a few will do.
            for value in values if "rejections" in path else values[:3]:
                yield Case(
                    f"{name}={value[:20]}-{path}", f"{path}?{name}={value}", BAD, f"'{name}' {says}"
                )
            yield Case(f"{name}-alone-{path}", f"{path}?{name}", BAD, f"'{name}' {says}")
            for value in ("%00", "%FF", "%ED%A0%80"):
                yield Case(
                    f"{name}={value}-{path}", f"{path}?{name}={value}", BAD, f"'{name}' contains"
                )
        for query in ("limit=1&limit=2", "limit=1&limit=1", "limit=1&dir=f&%6Cimit=1"):
            yield Case(
                f"twice-{query}-{path}", f"{path}?{query}", BAD, "'limit' is given more than once"
            )

    path = "/v1/rooms/{broken}/rejections"
    for name in ("since_ts", "until_ts"):
        for value in [str(MAX + 1), *numbers]:
            yield Case(f"{name}={value[:20]}", f"{path}?{name}={value}", BAD, f"'{name}' must be")
    for query, says in (
        ("since_ts=2&until_ts=1", "'since_ts' must not be after 'until_ts'"),
        ("type=%00", f"'type' {NO_CHARACTERS}"),
        ("sender=%ED%A0%80", f"'sender' {NO_CHARACTERS}"),
        ("reason=a%FF", f"'reason' {NO_CHARACTERS}"),
        ("type=a&type=b", "'type' is given more than once"),
        ("status=active", "'status' is not known"),
    ):
        yield Case(f"rejections-{query}", f"{path}?{query}", BAD, says)
    for query, says in (
        ("status=done", "'status' must be one of: scheduled, active"),
        ("status=", "'status' must be one of"),
        ("room_id=room", "'room_id' must be a room id"),
        ("room_id=", "'room_id' must be a room id"),
        ("room_id=%21%00", f"'room_id' {NO_CHARACTERS}"),
        ("type=m.room.member", "'type' is not known"),
    ):
        yield Case(f"repairs-{query}", f"/v1/repairs?{query}", BAD, says)
        if "status" not in query:
            yield Case(f"alerts-{query}", f"/v1/alerts?{query}", BAD, says)


def _bodies() -> Iterator[Case]:
    wrong: list[tuple[str, Mapping[str, Any], str, str]] = []

    def add(id: str, body: Mapping[str, Any], says: str, errcode: str = BAD) -> None:
        wrong.append((id, body, errcode, says))

    for key in ("dryrun", "DRY_RUN", "dry_run ", "", "room_id", "event_id", "\0", "\ud800", "😀"):
        add(f"key-{key!a}", {key: True}, "is not known; known are: deliver, dry_run")
    value: object
    for value in (None, 0, 1, "false", "", [], {}, 0.0):
        add(f"dry_run={value!r}", {"dry_run": value}, "'dry_run' must be true or false")
    for name in ("event_ids", "force"):
        for value in (None, "{x}", {}, {"{x}": True}, 1, True, [1], [None], [["{x}"]], ["{x}", {}]):
            add(f"{name}={value!r}", {name: value}, f"'{name}' must be a list of event ids")
        for value in (
            "",
            "$",
            "x",
            "{broken_id}",
            "@user:example.org",
            "$" + LONG,
            "$" + "a" * 255,
        ):
            add(f"{name}={value[:20]}", {name: ["{x}", value]}, f"'{name}' must hold event ids")
        for value in ("$\0", "$a\0b", "$\ud800", "$\udfff", "$\ufffd", "\0"):
            add(f"{name}={value!a}", {name: [value]}, f"'{name}' {NO_CHARACTERS}")
        add(f"{name}-many", {name: ["{x}"] * 1001}, f"'{name}' must name at most 1000 events")
        add(f"{name}-unknown", {name: ["{x}", "$unknown"]}, "Not known to this server", GONE)
        add(f"{name}-emoji", {name: ["$😀"]}, "$😀", GONE)
        add(f"{name}-sql", {name: ["$' OR '1'='1"]}, "Not known to this server", GONE)
        add(f"{name}-other-room", {name: ["{x}", "{other_x}"]}, "{other_x}", GONE)
        add(f"{name}-not-rejected", {name: ["{x}", "{early}"]}, f"'{name}' names events that", BAD)
        add(f"{name}-repaired", {name: ["{repaired}"]}, "Not known to this server in room", GONE)
    add("event_ids-none", {"event_ids": []}, "must name at least one event; leave it out for all")
    beyond = {"event_ids": ["{join}"], "force": ["{x}"]}
    add("force-beyond", beyond, "'force' names events that are not among those to repair: {x}")
    add("force-out-of-time", {"until_ts": 1, "force": ["{x}"]}, "not among those to repair")
    for name in ("since_ts", "until_ts"):
        wrong_types: tuple[Any, ...] = (None, "0", "", 1.5, 1.0, True, [], {}, [1])
        for value in (*wrong_types, -1, -HUGE, MAX + 1, 2**63, 2**64, HUGE):
            add(f"{name}={value!r}", {name: value}, f"'{name}' must be a whole number from 0 to")
    add("upside-down", {"since_ts": 2, "until_ts": 1}, "'since_ts' must not be after 'until_ts'")
    for value in (None, "LIVE", "", "both", 1, True, [], {}, ["live"], "\ud800", "\0"):
        add(f"deliver={value!a}", {"deliver": value}, "'deliver' must be one of: live, history")
    for value in (None, "", 1, True, [], {}):
        add(f"plan={value!r}", {"plan": value}, "'plan' must be the fingerprint")
    for value in ("x", "0" * 64, LONG, "\ud800", "\0", "{fingerprint}0", "{other_fingerprint}"):
        add(f"plan={ascii(value)[:30]}", {"plan": value}, "make a new dry run", CONFLICT)
    other_request = {"plan": "{fingerprint}", "until_ts": MAX}
    add("plan-of-another-request", other_request, "or the plan was made for another", CONFLICT)

    for id, body, errcode, says in wrong:
        # For real, so that something would be changed if it were taken.
        yield Case(f"body-{id}", REPAIR, errcode, says, "POST", {"dry_run": False, **body})


def _raw_bodies() -> Iterator[Case]:
    real = b'{"dry_run": false'
    no_json = {
        "half": real,
        "nothing-behind": real + b', "since_ts": }',
        "two": real + b"} {}",
        "comma": real + b",}",
        "quotes": b"{'dry_run': false}",
        "nan": real + b', "since_ts": NaN}',
        "infinity": real + b', "since_ts": Infinity}',
        "minus-infinity": real + b', "since_ts": -Infinity}',
        "long-number": real + b', "since_ts": ' + b"9" * 5000 + b"}",
        "leading-zero": real + b', "since_ts": 01}',
        "control": real + b', "plan": "\x00"}',
        "latin-1": real + b', "plan": "\xe9"}',
        "surrogate": real + b', "plan": "\xed\xa0\x80"}',
        "utf-16": (real + b"}").decode().encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + real + b"}",
        "zeros": b"\0" * 100,
        "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
        "deep-list": b"[" * 100_000,
        "deep-closed-list": real + b', "plan": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        "deep-object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "bare": b"dry_run=false",
        "bare-nan": b"NaN",
    }
    for id, raw in no_json.items():
        yield Case(f"raw-{id}", REPAIR, "M_NOT_JSON", "", "POST", raw=raw)
    for raw in (b"[]", b'[{"dry_run": false}]', b"3", b"-0.0", b'"x"', b"true", b"1e999"):
        yield Case(f"raw-{raw!r}", REPAIR, "M_BAD_JSON", "must be a JSON object", "POST", raw=raw)
    cancel = "/v1/repairs/{done}/cancel"
    yield Case("cancel-half", cancel, "M_NOT_JSON", "", "POST", raw=b"{")
    yield Case("cancel-list", cancel, "M_BAD_JSON", "", "POST", raw=b"[]")
    # The last of two would win, as ever in Python.
    said = "'dry_run' is given more than once"
    for id, path in (("repair", REPAIR), ("undo", "/v1/repairs/{done}/undo")):
        for twice in (b'{"dry_run": true, "dry_run": false}', real + b', "dry_run": false}'):
            yield Case(f"raw-twice-{id}", path, "M_BAD_JSON", said, "POST", raw=twice)
    infinite = real + b', "since_ts": 1e999}'
    yield Case("raw-overflow", REPAIR, BAD, "'since_ts' must be a whole", "POST", raw=infinite)
    # What curl says of every body by default makes Twisted look for a form in it.
    form = real + b', "deliver": "a=b&c=d"}'
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "nonsense", ""):
        yield Case(
            f"raw-as-{content_type}",
            REPAIR,
            BAD,
            "'deliver' must be one of",
            "POST",
            raw=form,
            content_type=content_type,
        )


CASES = [*_rooms(), *_repairs(), *_queries(), *_bodies(), *_raw_bodies()]


# The world.


@pytest.fixture(scope="module")
def world(pair: Pair) -> World:
    broken, other = make_incident(pair.room("10")), make_incident(pair.room("11"))
    room, database = broken.room, pair.b.database
    judge = Judge(Contract(), room.bob)

    done = make_incident(pair.room("12"))
    where = "/v1" + quoted("rooms", done.room.room_id, "repair")
    repair_id = judge.ok("POST", where, {"dry_run": False})["repair_id"]
    wait_for(
        lambda: judge.ok("GET", f"/v1/repairs/{repair_id}")["status"] == "complete",
        what="a repair to be complete",
    )

    for user in (other.room.bob, other.room.carol):
        user.leave(other.room.room_id)
    invited = room.alice.create_room("10", preset="private_chat")
    room.alice.invite(invited, room.bob.user_id)
    knows = "SELECT 1 FROM local_current_membership WHERE room_id = ? AND membership = ?"
    wait_for(lambda: database.query(knows, invited, "invite"), what="the invitation")
    wait_for(lambda: not database.query(knows, other.room.room_id, "join"), what="B to be gone")
    partial, odd = room.bob.create_room("11"), room.bob.create_room("11")
    database.execute(
        "INSERT INTO partial_state_rooms (room_id, device_lists_stream_id, joined_via)"
        " VALUES (?, 0, ?)",
        partial,
        pair.a.name,
    )
    database.execute("UPDATE rooms SET room_version = 'org.example.odd' WHERE room_id = ?", odd)

    plan = judge.ok("POST", "/v1" + quoted("rooms", room.room_id, "repair"))
    rooms = {"broken": room.room_id, "left": other.room.room_id, "invited": invited}
    rooms.update(partial=partial, odd=odd)
    world = World(
        judge,
        {
            **rooms,
            "broken_id": room.room_id,
            "x": broken.x,
            "join": broken.join,
            "early": broken.early_message,
            "other_x": other.x,
            "repaired": done.x,
            "done": repair_id,
            "fingerprint": plan["fingerprint"],
            "other_fingerprint": hashlib.sha256().hexdigest(),
        },
        plan,
    )

    def settled() -> bool:
        before, world.before = world.before, digest(database)
        return world.before == before

    wait_for(settled, interval=1, what="the servers to come to rest")
    return world


def digest(database: Database) -> dict[str, str]:
    """A digest of all rows of each table that a repair could touch."""
    sqlite = isinstance(database, SqliteDatabase)
    tables = [
        table
        for (table,) in database.query(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'event_search_%'"
            if sqlite
            else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        if not table.startswith(BY_ITSELF)
    ]
    columns = {table: _columns(database, table, sqlite) for table in tables}
    parts = [
        f"SELECT '{table}', {_row(names, sqlite)} FROM {table}"
        for table, names in sorted(columns.items())
        if set(COLUMNS) & set(names)
    ]
    assert len(parts) > 50, "these are not Synapse's tables"
    rows: dict[str, list[str]] = {}
    for start in range(0, len(parts), 20):
        for table, row in database.query(" UNION ALL ".join(parts[start : start + 20])):
            rows.setdefault(table, []).append(row)
    return {
        table: hashlib.sha256("\0".join(sorted(found)).encode()).hexdigest()
        for table, found in rows.items()
    }


_known_columns: dict[tuple[int, str], list[str]] = {}


def _columns(database: Database, table: str, sqlite: bool) -> list[str]:
    if (id(database), table) not in _known_columns:
        rows = database.query(
            f"SELECT name FROM pragma_table_info('{table}')"
            if sqlite
            else "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public'"
            f" AND table_name = '{table}' ORDER BY ordinal_position"
        )
        _known_columns[id(database), table] = [name for (name,) in rows]
    return _known_columns[id(database), table]


def _row(names: list[str], sqlite: bool) -> str:
    """SQL for a whole row as text."""
    if not sqlite:
        return "(" + ", ".join(f'"{name}"' for name in names) + ")::text"
    return " || '|' || ".join(f'quote("{name}")' for name in names)


# The tests.


def _fill(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, found in names.items():
            value = value.replace("{" + name + "}", found)
        return value
    if isinstance(value, list):
        return [_fill(item, names) for item in value]
    if isinstance(value, dict):
        return {_fill(key, names): _fill(item, names) for key, item in value.items()}
    return value


@pytest.fixture
def unchanged(pair: Pair, world: World) -> Iterator[None]:
    """Fails a test after which anything is not as it was, or B's log speaks of an error."""
    yield
    before, world.before = world.before, digest(pair.b.database)
    now, log = world.before, pair.b.log_text()
    new, world.read = log[world.read :], len(log)
    changed = {table for table in now.keys() | before.keys() if now.get(table) != before.get(table)}
    assert not changed, "rows were changed"
    assert errors(new) == []


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_refused(world: World, case: Case) -> None:
    quoted_names = {name: quoted(value)[1:] for name, value in world.names.items()}
    path = _fill(case.path, quoted_names)
    body = case.raw
    if case.body is not None:
        # `requests` would refuse some of what is sent here.
        body = json.dumps(_fill(case.body, world.names)).encode()
    response = world.judge.client.response(
        case.method, BASE + path, data=body, headers={"Content-Type": case.content_type}
    )
    world.judge.contract.check(case.method, path.partition("?")[0], response)
    answer = response.json()
    assert (response.status_code, answer["errcode"]) == (STATUS[case.errcode], case.errcode), answer
    assert _fill(case.says, world.names) in answer["error"]
    assert len(answer["error"]) < 1000


RAW_LINES = {
    "raw-bytes": b"GET %s/v1/rooms/!\xff\xfe/diagnosis HTTP/1.1",
    "raw-utf-8": "GET %s/v1/rooms/!ä/diagnosis HTTP/1.1".encode(),
    "raw-utf-8-after-the-base": "GET %s/v1/ä HTTP/1.1".encode(),
    "raw-nul": b"GET %s/v1/rooms/!\x00/diagnosis HTTP/1.1",
    "raw-query": b"GET %s/v1/rooms?dir=\xff HTTP/1.1",
    "raw-method": b"G\xcbT %s/v1/rooms HTTP/1.1",
    "raw-repair": b"POST %s/v1/rooms/!\xff/repair HTTP/1.1",
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("line", RAW_LINES.values(), ids=RAW_LINES.keys())
def test_raw_bytes(pair: Pair, world: World, line: bytes) -> None:
    # Twisted's own answer, or ours, whichever comes first.
    headers = [
        line.replace(b"%s", BASE.encode()),
        b"Host: 127.0.0.1",
        b"Authorization: Bearer " + world.judge.client.access_token.encode(),
        b"Content-Length: 0",
        b"Connection: close",
    ]
    with socket.create_connection(("127.0.0.1", pair.b.client_port), timeout=30) as connection:
        connection.sendall(b"\r\n".join(headers) + b"\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]


@pytest.mark.usefixtures("unchanged")
def test_the_room_is_as_it_was(world: World) -> None:
    where = "/v1" + quoted("rooms", world.names["broken"], "repair")
    assert world.judge.ok("POST", where) == world.plan
    (repair,) = world.judge.ok("GET", "/v1/repairs")["repairs"]
    assert repair["repair_id"] == world.names["done"]


def test_digest_sees_a_change(pair: Pair, world: World) -> None:
    before = digest(pair.b.database)
    room_id = world.names["partial"]
    sql = "UPDATE rooms SET has_auth_chain_index = ? WHERE room_id = ?"
    (was,) = pair.b.database.query(
        "SELECT has_auth_chain_index FROM rooms WHERE room_id = ?", room_id
    )
    pair.b.database.execute(sql, not was[0], room_id)
    assert digest(pair.b.database) != before
    pair.b.database.execute(sql, was[0], room_id)
    assert digest(pair.b.database) == before
