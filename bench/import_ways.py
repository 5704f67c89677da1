"""Compares ways in which a room's history can move: `python -m bench.import_ways [--events N]`.

Prints, from one run on one source: the import of this module; the same without its checks;
Synapse's persistence alone, fed with ready contexts; a plain copy of rows; and Synapse's own
backfill over federation. With `--rounds N`, the first three are the medians of N rooms each, and
how they compare is the median of N comparisons: both databases grow from room to room.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.history import write_history
from bench.worlds import row, scratch
from tests.harness.client import Client
from tests.harness.config import Module
from tests.harness.database import SqliteDatabase
from tests.harness.installs import INSTALLS, Install
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import OVER, job_path, room_path, sources

_COPIED = (
    "events",
    "event_json",
    "event_edges",
    "event_auth",
    "state_events",
    "room_memberships",
    "event_relations",
    "event_to_state_groups",
)


_BACKFILLED = 5000
"""How many events are at most asked for over federation: it is slow."""


def newcomer(server: Server, room_ids: Sequence[str], via: Server) -> Client:
    """A user of a server who is in rooms, with all of their state."""
    user = server.register("bob", admin=True)
    for room_id in room_ids:
        user.join(room_id, via=via.name)
    partial = "SELECT 1 FROM partial_state_rooms"
    wait_for(lambda: not server.database.query(partial), what="the whole state")
    return user


def imported(server: Server, user: Client, room_id: str) -> float:
    """Imports a room; gives how many events arrived in a second."""
    body = {"source": "old", "dry_run": False}
    job_id = user.repair_api("POST", room_path(room_id, "import"), body)["import_id"]

    def over() -> bool:
        # Not over HTTP: an import makes way for whoever asks something of the server.
        sql = "SELECT status FROM rejection_repair_jobs WHERE job_id = ?"
        return server.database.value(sql, job_id) in OVER

    wait_for(over, 3600, interval=0.5)
    job = user.repair_api("GET", job_path(job_id))
    assert job["status"] == "complete", job
    rate: float = job["imported"] * 1000 / (job["finished_ts"] - job["started_ts"])
    return rate


def backfilled(user: Client, room_id: str, count: int) -> float:
    """Scrolls up until everything has come over federation; gives events in a second."""
    began, seen, token = time.monotonic(), 0, None
    while seen < count:
        params = {"dir": "b", "limit": "100", **({"from": token} if token else {})}
        page = user.call(
            "GET", f"/_matrix/client/v3{room_path(room_id, 'messages')}", params=params
        )
        seen += len(page["chunk"])
        token = page.get("end")
        if token is None:
            break
    return seen / (time.monotonic() - began)


def copied(source: SqliteDatabase, room_id: str, to: Path) -> float:
    """Copies the room's rows into another file; gives how many events in a second."""
    connection = sqlite3.connect(to)
    connection.execute("ATTACH ? AS old", (str(source.path),))
    for table in _COPIED:
        ((sql,),) = connection.execute(
            "SELECT sql FROM old.sqlite_master WHERE type = 'table' AND name = ?", (table,)
        )
        connection.execute(sql)
        for (index,) in connection.execute(
            "SELECT sql FROM old.sqlite_master"
            " WHERE type = 'index' AND tbl_name = ? AND sql NOTNULL",
            (table,),
        ).fetchall():
            connection.execute(index)
    connection.commit()
    began, count = time.monotonic(), 0
    wanted = "SELECT event_id FROM old.events WHERE room_id = ?"
    for table in _COPIED:
        cursor = connection.execute(
            f"INSERT INTO {table} SELECT * FROM old.{table} WHERE event_id IN ({wanted})",
            (room_id,),
        )
        if table == "events":
            count = cursor.rowcount
        connection.commit()
    connection.close()
    return count / (time.monotonic() - began)


def run(events: int, rounds: int, database: str, install: Install) -> None:
    """Runs the benchmark.

    Args:
        events: how many each room has.
        rounds: in how many rooms each way is measured, one way after the other.
        database: what all servers but the old one have.
        install: their Synapse.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        a = Server(folder / "a", modules=[], log_level="WARNING")
        stack.callback(a.stop)
        assert isinstance(a.database, SqliteDatabase)
        old = sources(old=a.database.synapse_config())

        def server(name: str, *modules: Module) -> Server:
            made = Server(
                folder / name,
                install=install,
                database=stack.enter_context(scratch(database))[1],
                modules=[*modules],
                log_level="WARNING",
            )
            stack.callback(made.stop)
            return made

        def instead(module: str) -> list[Module]:
            return [*old, {"module": module, "config": {}}]

        other = server("other")
        ways = {
            "import": server("ours", *old),
            "the same without a check": server("unchecked", *instead("bench.ready.WithoutChecks")),
            "persistence alone, ready contexts, no checks": server(
                "bare", *instead("bench.plainly.Plainly")
            ),
        }
        a.start()
        alice, anna = a.register("alice", admin=True), a.register("anna")
        rooms = [alice.create_room("11", name="A long history") for _ in range(rounds)]
        for room_id in rooms:
            anna.join(room_id)
        a.stop()
        for room_id in rooms:
            write_history(a, room_id, [alice, anna], events)
        for one in (a, other, *ways.values()):
            one.launch()
        for one in (a, other, *ways.values()):
            one.wait_healthy()
        scroller = newcomer(other, rooms[:1], a)
        users = {way: newcomer(one, rooms, a) for way, one in ways.items()}
        row("Synapse, database, events", f"{install.version}, {database}, {events}")
        federation = backfilled(scroller, rooms[0], min(events, _BACKFILLED))
        other.stop()
        a.stop()
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for number, room_id in enumerate(rooms):
            # Whoever is first finds the source unread.
            for way in rotated(list(ways), number):
                rates[way].append(imported(ways[way], users[way], room_id))
        found = {way: statistics.median(some) for way, some in rates.items()}
        ours = rates["import"]
        times = {
            way: statistics.median(a / b for a, b in zip(ours, some, strict=True))
            for way, some in rates.items()
        }
        found["plain copy of rows"] = copied(a.database, rooms[0], folder / "copy.db")
        found[f"Synapse's backfill over federation (up to {_BACKFILLED:,})"] = federation
        for way, rate in found.items():
            ratio = times.get(way, found["import"] / rate)
            row(way, f"{rate:.0f}/s; import = {ratio:.2f} x")


def rotated(items: list[str], by: int) -> list[str]:
    """The items, beginning further back each time."""
    by %= len(items)
    return items[by:] + items[:by]


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000, help="of each room")
    parser.add_argument("--rounds", type=int, default=1, help="the median of so many rooms")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--synapse", choices=sorted(INSTALLS), default="newest")
    options = parser.parse_args()
    run(options.events, options.rounds, options.database, INSTALLS[options.synapse])


if __name__ == "__main__":
    main()
