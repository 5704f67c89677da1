"""Measures a large server: `python -m bench.large [--events 10000000] [--keep FOLDER]`.

Fills the database of a real server, in PostgreSQL, lets it reject a change of the power levels in
its largest room, writes a cascade of signed, rejected events behind that, and prints, from one
run, how long each endpoint takes, the memory that it takes, and how long the reactor was held.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.bigdb import Size, catch_up, fill
from bench.cascade import chain
from bench.memory import peak_of
from bench.probe import holds, watch
from bench.rejected import store_rejected
from bench.worlds import megabytes, row
from tests.harness.client import Client, quoted
from tests.harness.database import PostgresDatabase
from tests.harness.federation import Pair, Room, running
from tests.harness.hostile import HostilePeer
from tests.harness.postgres import Postgres
from tests.harness.server import Server

_DATABASE = "synapse_1"
_SETTINGS = {
    "shared_buffers": "2GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "16GB",
    "autovacuum": "off",
}
_ROUNDS = 15
"""How often a page is asked for."""


@dataclass(frozen=True)
class World:
    """What has to be known of a database that was filled before."""

    ports: tuple[int, int]
    room_id: str
    user_id: str
    access_token: str
    size: Size


@contextmanager
def large_server(folder: Path, size: Size) -> Iterator[tuple[Server, Client, World]]:
    """A running server with a large database, an admin of it, and what there is in it.

    Args:
        folder: What an earlier run left there is used again.
        size: How large the database is to be, where it is not there yet.
    """
    written = folder / "world.json"
    with ExitStack() as stack:
        cluster = Postgres(folder / "pg", _SETTINGS)
        stack.callback(cluster.stop)
        cluster.start()
        if not written.exists():
            began = time.monotonic()
            world = _make(folder, cluster.create_database(), size)
            written.write_text(json.dumps(asdict(world)))
            row("the database was written in", f"{time.monotonic() - began:.0f} s")
        found = json.loads(written.read_text())
        world = World(**{**found, "ports": tuple(found["ports"]), "size": Size(**found["size"])})
        server = _server(folder, cluster.database(_DATABASE), world.ports)
        stack.enter_context(running(server))
        yield server, Client(server.url, world.user_id, world.access_token), world


def _server(folder: Path, database: PostgresDatabase, ports: tuple[int, int] | None) -> Server:
    server = Server(folder / "b", database=database, log_level="INFO", ports=ports)
    watch(server)
    return server


def _make(folder: Path, database: PostgresDatabase, size: Size) -> World:
    a = Server(folder / "a", modules=[], log_level="WARNING")
    b = _server(folder, database, None)
    with running(a, b):
        room = Pair(a, b).room("10")
        room.wait_everywhere(room.alice.send_message(room.room_id, "Before it all"))
        b.stop()
        fill(database, room.room_id, (room.alice.user_id, room.bob.user_id), size)
        catch_up(database, room.room_id)
        b.start()
        root = _reject_root(room)
        b.stop()
        store_rejected(room, chain(room, root, size.rejections - 1))
        catch_up(database, room.room_id)
        b.start()
        # It is not A's fault that B goes on.
        room.bob.send_message(room.room_id, "I see nothing")
    return World(
        (b.client_port, b.federation_port),
        room.room_id,
        room.bob.user_id,
        room.bob.access_token,
        size,
    )


def _reject_root(room: Room) -> str:
    """Lets B reject a change of the power levels, made by A where B's history ends."""
    peer = HostilePeer(room.a, room.room_id)
    content = room.alice.get_state(room.room_id, "m.room.power_levels")
    content = {**content, "users": {**content["users"], room.carol.user_id: 50}}
    ((tip, depth),) = room.b.database.query(
        "SELECT event_id, depth FROM event_forward_extremities JOIN events USING (event_id)"
        " WHERE event_forward_extremities.room_id = ?",
        room.room_id,
    )
    event, root = peer.forge(
        "m.room.power_levels",
        room.alice.user_id,
        content,
        state_key="",
        prev_events=[tip],
        depth=depth + 1,
    )
    room.b.sabotage(type="m.room.power_levels", room_id=room.room_id)
    peer.send(room.b, event)
    room.b.wait_for_event(root)
    room.b.sabotage_off()
    assert room.b.rejected(room.room_id) == {root}
    return root


def measure(server: Server, admin: Client, world: World, report: Path) -> None:
    """Asks every endpoint, and prints a line for each."""
    room = "/rooms" + quoted(world.room_id)
    last = max(world.size.rejections - 100, 0)

    def get(path: str, **query: Any) -> Callable[[], object]:
        return lambda: admin.repair_api("GET", path, params=query)

    pages: dict[str, Callable[[], object]] = {
        "rooms": get("/rooms"),
        "rooms, by rejected_events": get("/rooms", order_by="rejected_events", dir="b"),
        "rejections": get(room + "/rejections"),
        "rejections, the last page": get(room + "/rejections", **{"from": last}),
        "rejections, by type, halfway": get(
            room + "/rejections", order_by="type", **{"from": last // 2}
        ),
        "rejections, by event_id, backwards": get(
            room + "/rejections", order_by="event_id", dir="b"
        ),
        "rejections, topics alone": get(room + "/rejections", type="m.room.topic"),
        "rejections, of a sender, by depth": get(
            room + "/rejections", sender=f"{world.user_id}", order_by="depth"
        ),
    }
    with holds(report) as held:
        time.sleep(10)
    row("idle: the reactor is held for at most", f"{held.longest:.0f} ms")
    idle, highest = server.memory()["VmRSS"], 0
    for name, call in pages.items():
        times = []
        with holds(report) as held:
            for _ in range(_ROUNDS):
                began = time.monotonic()
                call()
                times.append((time.monotonic() - began) * 1000)
        row(
            name,
            f"{statistics.median(times):.0f} ms, first {times[0]:.0f},"
            f" most {max(times):.0f}; held {held.longest:.0f} ms",
        )
    for name, call in {
        "diagnosis": get(room + "/diagnosis"),
        "dry run": lambda: admin.repair_api("POST", room + "/repair", json={}),
        "health": get(room + "/health"),
    }.items():
        with peak_of(server) as peak, holds(report) as held:
            began = time.monotonic()
            call()
            took = time.monotonic() - began
        row(name, f"{took:.1f} s, {megabytes(peak.growth)}; held {held.longest:.0f} ms")
        for where in held.where:
            print(f"    {where}")
        highest = max(highest, peak.highest)
    row("all of it one after the other, over idle, at most", megabytes(highest - idle))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rooms", type=int, default=2_000)
    parser.add_argument("--room-events", type=int, default=1_000_000, help="of the largest room")
    parser.add_argument("--rejections", type=int, default=100_000, help="in the largest room")
    parser.add_argument("--keep", type=Path, help="where the database is kept for another run")
    options = parser.parse_args()
    size = Size(options.events, options.rooms, options.room_events, options.rejections)
    with ExitStack() as stack:
        folder = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        server, admin, world = stack.enter_context(large_server(folder, size))
        admin.timeout = 3600
        row("Synapse, events", f"{server.install.version}, {world.size.events}")
        measure(server, admin, world, server.folder / "probe.jsonl")


if __name__ == "__main__":
    main()
