"""Compares ways in which a room's history can move: `python -m bench.import_ways [--events N]`.

Prints, from one run on one source: the import of this module; the same without its checks;
Synapse's persistence alone, fed with ready contexts; a plain copy of rows; and Synapse's own
backfill over federation.
"""

from __future__ import annotations

import argparse
import sqlite3
import time
from contextlib import ExitStack
from pathlib import Path

from bench.history import write_history
from bench.worlds import row, scratch
from tests.harness.client import Client
from tests.harness.config import Module
from tests.harness.database import Database, SqliteDatabase
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


def joined(server: Server, room_id: str, via: Server) -> Client:
    """A user of a server who is in a room, with all of its state."""
    user = server.register("bob", admin=True)
    user.join(room_id, via=via.name)
    partial = "SELECT 1 FROM partial_state_rooms WHERE room_id = ?"
    wait_for(lambda: not server.database.query(partial, room_id), what="the whole state")
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


def run(events: int, database: str, install: Install) -> None:
    """Runs the benchmark."""
    with ExitStack() as stack:
        folder, first = stack.enter_context(scratch(database))
        second, third, fourth = (stack.enter_context(scratch(database))[1] for _ in range(3))
        a = Server(folder / "a", modules=[], log_level="WARNING")
        assert isinstance(a.database, SqliteDatabase)
        old = sources(old=a.database.synapse_config())

        def server(name: str, database: Database | None, *modules: Module) -> Server:
            return Server(
                folder / name,
                install=install,
                database=database,
                modules=[*modules],
                log_level="WARNING",
            )

        def instead(module: str) -> list[Module]:
            return [*old, {"module": module, "config": {}}]

        other, ours = server("other", first), server("ours", second, *old)
        unchecked = server("unchecked", third, *instead("bench.ready.WithoutChecks"))
        bare = server("bare", fourth, *instead("bench.plainly.Plainly"))
        everyone = (a, other, ours, unchecked, bare)
        try:
            a.start()
            alice, anna = a.register("alice", admin=True), a.register("anna")
            room_id = alice.create_room("11", name="A long history")
            anna.join(room_id)
            a.stop()
            write_history(a, room_id, [alice, anna], events)
            for one in everyone:
                one.launch()
            for one in everyone:
                one.wait_healthy()
            users = [joined(one, room_id, a) for one in everyone[1:]]
            row("Synapse, database, events", f"{install.version}, {database}, {events}")
            federation = backfilled(users[0], room_id, min(events, _BACKFILLED))
            other.stop()
            a.stop()
            rates = []
            for one, user in zip((ours, unchecked, bare), users[1:], strict=True):
                rates.append(imported(one, user, room_id))
                one.stop()
            import_ = rates[0]
            plain = copied(a.database, room_id, folder / "copy.db")
            row("import", f"{import_:.0f}/s")
            for what, rate in (
                ("the same without a check", rates[1]),
                ("persistence alone, ready contexts, no checks", rates[2]),
                ("plain copy of rows", plain),
                ("Synapse's backfill over federation (up to 5,000)", federation),
            ):
                row(what, f"{rate:.0f}/s; import = {import_ / rate:.2f} x")
        finally:
            for one in everyone:
                one.stop()


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--synapse", choices=sorted(INSTALLS), default="newest")
    options = parser.parse_args()
    run(options.events, options.database, INSTALLS[options.synapse])


if __name__ == "__main__":
    main()
