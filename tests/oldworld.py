"""An old server with a room full of history, and a new one that came late to it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.harness.client import Client
from tests.harness.config import Module
from tests.harness.database import Database
from tests.harness.federation import running
from tests.harness.hostile import HostilePeer
from tests.harness.installs import NEWEST, Install
from tests.harness.server import Server
from tests.harness.waiting import wait_for

MODULE = "synapse_rejection_repair.RejectionRepair"
_serial = itertools.count(1)
OVER = ("complete", "failed", "cancelled")


def sources(**databases: Any) -> list[Module]:
    """The `modules` of a server that knows old databases by these names."""
    named = {name: {"database": database} for name, database in databases.items()}
    return [{"module": MODULE, "config": {"sources": named}}]


@dataclass(kw_only=True)
class OldRoom:
    """A room of A's (old), to which B (new) came late."""

    a: Server
    b: Server
    room_id: str
    alice: Client
    anna: Client
    bob: Client
    messages: list[str] = field(default_factory=list)
    reacted: str = ""
    thread_root: str = ""
    edited: str = ""
    redacted: str = ""
    since: str = ""
    """Bob's sync token from after his join."""
    order: list[str] = field(default_factory=list)
    """What the old server's /messages gave, newest first, when it was last asked."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What of the room on B an import must not change."""

    def import_room(self, wait: bool = True, **options: Any) -> dict[str, Any]:
        """Imports the room for real, and gives the job as it is in the end."""
        job_id = self.start_import(**options)
        return finished(self.bob, job_id) if wait else self.bob.repair_api("GET", job_path(job_id))

    def start_import(self, **options: Any) -> str:
        """Begins to import the room for real, and gives the id of the job."""
        body = {"source": "old", "dry_run": False, **options}
        answer = self.bob.repair_api("POST", room_path(self.room_id, "import"), body)
        job_id: str = answer["import_id"]
        return job_id

    def dry_run(self, **options: Any) -> dict[str, Any]:
        body = {"source": "old", **options}
        answer = self.bob.repair_api("POST", room_path(self.room_id, "import"), body)
        assert answer["dry_run"] is True
        summary: dict[str, Any] = answer["summary"]
        return summary


@dataclass(kw_only=True)
class OldWorld(OldRoom):
    """The same with a third server, C, in the room from the start."""

    c: Server
    carol: Client
    forks: list[list[str]] = field(default_factory=list)


def room_path(room_id: str, *parts: str) -> str:
    return "/rooms/" + "/".join(quote(part, safe="") for part in (room_id, *parts))


def job_path(job_id: str) -> str:
    return "/imports/" + quote(job_id, safe="")


def finished(client: Client, job_id: str, timeout: float = 120) -> dict[str, Any]:
    """Waits for an import's end."""

    def over() -> dict[str, Any] | None:
        job: dict[str, Any] = client.repair_api("GET", job_path(job_id))
        return job if job["status"] in OVER else None

    found = wait_for(over, timeout, what="the import to end")
    assert found is not None
    return found


@contextmanager
def old_world(
    folder: Path,
    version: str,
    *,
    a_database: Database | None = None,
    b_database: Database | None = None,
    b_install: Install = NEWEST,
    make_b: Callable[..., Server] = Server,
    messages: int = 60,
    take_back: bool = True,
    others: Mapping[str, Any] | None = None,
    modules: Callable[[Server], list[Module]] | None = None,
    join: bool = True,
    spoil: Callable[[OldWorld], None] | None = None,
) -> Iterator[OldWorld]:
    """Makes the world; A is stopped in it, since the old server is gone.

    B loads our module with A's database as `old` and `others`, or else `modules`, given A.
    """
    a = Server(folder / "a", modules=[], database=a_database)
    c = Server(folder / "c", modules=[])
    b = make_b(
        folder / "b",
        modules=modules(a)
        if modules is not None
        else sources(old=a.database.synapse_config(), **others or {}),
        database=b_database,
        install=b_install,
    )
    with running(a, b, c):
        world = with_third(begin(a, b, version), c, c.register("carol"))
        live(world, messages, take_back=take_back)
        if spoil is not None:
            spoil(world)
        if join:
            come_late(world)
        a.stop()
        c.stop()
        yield world


def begin(a: Server, b: Server, version: str) -> OldRoom:
    """Makes a room on the old server, with two users in it; B knows nothing of it yet."""
    alice, anna = a.register("alice", admin=True), a.register("anna")
    return begin_room(a, b, alice, anna, b.register("bob", admin=True), version)


def begin_room(
    a: Server, b: Server, alice: Client, anna: Client, bob: Client, version: str
) -> OldRoom:
    """Makes a room on the old server, for users that there are already."""
    room_id = alice.create_room(version, name="The old room", topic="Before")
    anna.join(room_id)
    return OldRoom(a=a, b=b, room_id=room_id, alice=alice, anna=anna, bob=bob)


def with_third(world: OldRoom, c: Server, carol: Client) -> OldWorld:
    """Lets a user of a third server in, who may set the topic."""
    alice, room_id = world.alice, world.room_id
    carol.join(room_id, via=world.a.name)
    wait_for(lambda: carol.user_id in alice.members(room_id), what="C to be in the room")
    levels = alice.get_state(room_id, "m.room.power_levels")
    levels.setdefault("users", {})[carol.user_id] = 50
    alice.send_state(room_id, "m.room.power_levels", levels)
    return OldWorld(**vars(world), c=c, carol=carol)


def come_late(world: OldRoom) -> None:
    """Lets B's user join, and notes what there is to see on both servers then."""
    a, b, bob, room_id = world.a, world.b, world.bob, world.room_id
    bob.join(room_id, via=a.name)
    partial = "SELECT 1 FROM partial_state_rooms WHERE room_id = ?"
    wait_for(lambda: not b.database.query(partial, room_id), what="B's whole state")
    wait_for(lambda: bob.user_id in world.alice.members(room_id), what="A to see bob")
    world.order = [e["event_id"] for e in world.alice.messages(room_id)]
    world.since = _fresh_sync(bob)["next_batch"]
    world.facts = untouched(b, bob, room_id)


def live(world: OldRoom, messages: int, *, take_back: bool = True) -> None:
    """Lets the old room's users do what users do; 12 messages are one of everything.

    With `take_back` they also redact a reaction, a reply and an edit at once.
    """
    r, alice, anna = world.room_id, world.alice, world.anna
    for number in range(messages):
        sender = (alice, anna)[number % 2]
        event_id = sender.send_message(r, f"Wörd{number} of the old days 🕯")
        world.messages.append(event_id)
        kind = number % 12
        if kind == 1:
            world.reacted = event_id
            anna.react(r, event_id, "👍")
        elif kind == 3:
            world.thread_root = event_id
            for reply in range(3):
                alice.send_in_thread(r, event_id, f"Reply {reply}")
        elif kind == 5:
            world.edited = event_id
            sender.edit(r, event_id, f"Corrected{number}")
        elif kind == 7:
            world.redacted = event_id
            alice.redact(r, event_id, "said too much")
        elif kind == 8:
            alice.send_state(r, "m.room.topic", {"topic": f"Topic {number}"})
        elif kind == 9 and isinstance(world, OldWorld):
            fork(world, state=number % 24 == 9)
        elif number == 10 and take_back:
            for taken_back in (
                anna.react(r, event_id, "👎"),
                alice.send_in_thread(r, event_id, "Never mind"),
                sender.edit(r, event_id, "Nothing"),
            ):
                alice.redact(r, taken_back)
    anna.leave(r)
    alice.send_message(r, "Anna has left")
    anna.join(r)
    alice.send_event(r, "m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2"})


def fork(world: OldWorld, *, state: bool) -> None:
    """Three events on the same events, signed by C, which A then merges."""
    sender = world.carol.user_id
    sees = HostilePeer(world.a, world.room_id)
    peer = HostilePeer(world.c, world.room_id)
    tips = sees.extremities()
    depth = sees._depth(tips)
    made = []
    for branch in range(3):
        type_, content, key = "m.room.message", {"msgtype": "m.text", "body": f"F{branch}"}, None
        if state and branch < 2:
            type_, content, key = "m.room.topic", {"topic": f"Fork {depth} {branch}"}, ""
        event: dict[str, Any] = {"type": type_, "sender": sender, "content": content}
        if key is not None:
            event["state_key"] = key
        event.update(room_id=world.room_id, prev_events=[], auth_events=[])
        event.update(depth=depth, origin_server_ts=0)
        pdu, event_id = peer.forge(
            type_,
            sender,
            content,
            state_key=key,
            prev_events=tips,
            auth_events=sees._auth_events(event),
            depth=depth,
        )
        made.append((pdu, event_id))
    assert peer.send(world.a, *[pdu for pdu, _ in made]) == {i: {} for _, i in made}
    for _, event_id in made:
        world.a.wait_for_event(event_id)
    world.forks.append([i for _, i in made])
    world.alice.send_message(world.room_id, f"Merges at {depth}")


def untouched(b: Server, bob: Client, room_id: str) -> dict[str, Any]:
    """What of a room on the new server an import must not change."""
    query = b.database.query
    return {
        "current_state": sorted(
            query(
                "SELECT type, state_key, event_id FROM current_state_events WHERE room_id = ?",
                room_id,
            )
        ),
        "extremities": sorted(
            query("SELECT event_id FROM event_forward_extremities WHERE room_id = ?", room_id)
        ),
        "local": sorted(
            query(
                "SELECT user_id, event_id, membership FROM local_current_membership"
                " WHERE room_id = ?",
                room_id,
            )
        ),
        "snapshots": sorted(
            query(
                "SELECT user_id, membership_event_id, membership, has_known_state"
                " FROM sliding_sync_membership_snapshots WHERE room_id = ?",
                room_id,
            )
        ),
        "joined": sorted(bob.members(room_id)),
        "unread": _fresh_sync(bob)["rooms"]["join"][room_id]["unread_notifications"],
        "pushes": query("SELECT COUNT(*) FROM event_push_actions WHERE room_id = ?", room_id),
    }


def _fresh_sync(user: Client) -> dict[str, Any]:
    # For two minutes, Synapse gives the same answer again to who asks the same.
    answer: dict[str, Any] = user.sync(timeout_ms=next(_serial))
    return answer


# What both servers' tables have to say of an event, the same on both.
TABLES = {
    "events": "event_id, type, topological_ordering, depth, sender, origin_server_ts,"
    " contains_url, state_key",
    "event_edges": "event_id, prev_event_id",
    "event_auth": "event_id, auth_id",
    "state_events": "event_id, type, state_key",
    "room_memberships": "event_id, user_id, sender, membership, display_name",
    "event_relations": "event_id, relates_to_id, relation_type, aggregation_key",
    "redactions": "event_id, redacts",
    "event_search": "event_id, key, value",
}


def rows(server: Server, table: str, event_ids: set[str]) -> set[tuple[Any, ...]]:
    columns = TABLES[table]
    if table == "event_search" and "host" in server.database.synapse_config()["args"]:
        columns = columns.replace(", value", "")
    found = server.database.query(f"SELECT {columns} FROM {table}")
    # SQLite has no booleans.
    return {
        tuple(int(v) if isinstance(v, bool) else v for v in r) for r in found if r[0] in event_ids
    }


def signed(server: Server, event_ids: set[str]) -> dict[str, Any]:
    """The JSON of events, without what only the server says of them."""
    found = {}
    for event_id, text in server.database.query("SELECT event_id, json FROM event_json"):
        if event_id in event_ids:
            found[event_id] = {k: v for k, v in json.loads(text).items() if k != "unsigned"}
    return found


def states(server: Server, event_ids: set[str]) -> dict[str, dict[tuple[str, str], str]]:
    """The state at events, in full."""
    query = server.database.query
    edges: dict[int, int] = dict(
        query("SELECT state_group, prev_state_group FROM state_group_edges")
    )
    deltas: dict[int, dict[tuple[str, str], str]] = {}
    for group, type_, key, event_id in query(
        "SELECT state_group, type, state_key, event_id FROM state_groups_state"
    ):
        deltas.setdefault(group, {})[type_, key] = event_id
    full: dict[int, dict[tuple[str, str], str]] = {}

    def state(group: int) -> dict[tuple[str, str], str]:
        chain = [group]
        while chain[-1] in edges and chain[-1] not in full:
            chain.append(edges[chain[-1]])
        result: dict[tuple[str, str], str] = {}
        for one in reversed(chain):
            result = full[one] if one in full else {**result, **deltas.get(one, {})}
            full[one] = result
        return result

    return {
        event_id: state(group)
        for event_id, group in query("SELECT event_id, state_group FROM event_to_state_groups")
        if event_id in event_ids
    }


def accepted(server: Server, room_id: str) -> set[str]:
    """The events of a room that a server has in full and accepted."""
    return {
        event_id
        for (event_id,) in server.database.query(
            "SELECT e.event_id FROM events AS e LEFT JOIN rejections AS r"
            " ON r.event_id = e.event_id"
            " WHERE e.room_id = ? AND NOT e.outlier AND r.event_id IS NULL",
            room_id,
        )
    }


def tamper(world: OldRoom, event_id: str, change: Callable[[str], str]) -> None:
    """Changes an event's JSON in the old server's database."""
    text = world.a.database.value("SELECT json FROM event_json WHERE event_id = ?", event_id)
    world.a.database.execute(
        "UPDATE event_json SET json = ? WHERE event_id = ?", change(text), event_id
    )
