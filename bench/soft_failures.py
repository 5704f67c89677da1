"""Measures looking at soft-failed events: `python -m bench.soft_failures [--events 100000]`.

Writes a cascade of signed, rejected events and, at its beginning and its end, soft-failed ones
straight into the stopped server's database. Prints, from one run: what the search for soft-failed
events takes, against a plain read of the same rows and against the whole of what it is a part of;
and for how long the reactor was held, and by what.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from bench.cascade import chain, reject_root
from bench.memory import peak_of
from bench.probe import holds, watch
from bench.rejected import store_rejected, store_soft_failed
from bench.repair import servers
from bench.worlds import megabytes, row
from synapse_rejection_repair.adapter.soft_failures import MARKED, SCAN, WINDOW
from tests.harness.client import Client, quoted
from tests.harness.database import Database
from tests.harness.federation import Room
from tests.harness.hostile import HostilePeer, JsonDict

_ROUNDS = 3
_PLAIN = f"""
    SELECT ej.event_id, ej.internal_metadata FROM ({WINDOW}) AS w
    INNER JOIN event_json AS ej ON ej.event_id = w.event_id"""


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="how long the cascade is")
    parser.add_argument("--soft-failed", type=int, default=1_000, help="how many are soft-failed")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    options = parser.parse_args()

    with servers(options.database, "newest") as pair:
        room = pair.room("10")
        old = room.alice.send_message(room.room_id, "What the late events follow")
        room.wait_everywhere(old)
        root = reject_root(room)
        cascade = chain(room, root, options.events)
        late = _late(room, old, options.soft_failed)
        pair.b.stop()
        first = pair.b.database.value(
            "SELECT stream_ordering FROM events WHERE event_id = ?", cascade[0][0]["prev_events"][0]
        )
        store_soft_failed(room, late[:10])
        store_rejected(room, cascade)
        store_soft_failed(room, late[10:])
        report = watch(pair.b)
        pair.b.start()
        row("Synapse, database", f"{pair.b.install.version}, {options.database}")

        database = pair.b.database
        read = _fastest(lambda: _scan(database, room.room_id, first, _PLAIN, ()))
        scanned = _fastest(lambda: _scan(database, room.room_id, first, MARKED, ("%soft_failed%",)))
        row(f"{len(cascade) + len(late)} events: searched", f"{scanned:.2f} s")
        row("searched / plain read of the same rows", f"{scanned / read:.2f} x")
        for name, call in _calls(room.bob, room.room_id).items():
            with peak_of(pair.b) as peak, holds(report) as held:
                began = time.monotonic()
                call()
                took = time.monotonic() - began
            row(name, f"{took:.2f} s, {megabytes(peak.growth)}, held {held.longest:.0f} ms")
            row(f"searched / {name}", f"{100 * scanned / took:.1f} %")
            if held.where:
                row("held by", held.where[0])


def _late(room: Room, old: str, count: int) -> list[tuple[JsonDict, str]]:
    peer = HostilePeer(room.a, room.room_id)
    database = room.b.database
    state = {
        (type_, key): event_id
        for type_, key, event_id in database.query(
            "SELECT type, state_key, event_id FROM current_state_events WHERE room_id = ?",
            room.room_id,
        )
    }
    alice = room.alice.user_id
    auth = [
        state[key]
        for key in (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", alice))
    ]
    depth = database.value("SELECT depth FROM events WHERE event_id = ?", old)
    events, prev = [], old
    for number in range(count):
        event, prev = peer.forge(
            "m.room.message",
            alice,
            {"msgtype": "m.text", "body": f"Late, {number}"},
            prev_events=[prev],
            auth_events=auth,
            depth=depth + number + 1,
        )
        events.append((event, prev))
    return events


def _scan(
    database: Database, room_id: str, since: int, sql: str, parameters: Sequence[object]
) -> None:
    position: int | None = since - 1
    while position is not None:
        window = (room_id, position, SCAN)
        database.query(sql, *window, *parameters)
        ((count, last),) = database.query(
            f"SELECT COUNT(*), MAX(stream_ordering) FROM ({WINDOW}) AS w", *window
        )
        position = last if count == SCAN else None


def _fastest(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        began = time.monotonic()
        work()
        times.append(time.monotonic() - began)
    return min(times)


def _calls(admin: Client, room_id: str) -> dict[str, Callable[[], object]]:
    path = "/rooms" + quoted(room_id)
    return {
        "diagnosis": lambda: admin.repair_api("GET", path + "/diagnosis"),
        "dry run": lambda: admin.repair_api("POST", path + "/repair", json={}),
        "health": lambda: admin.repair_api("GET", path + "/health"),
    }


if __name__ == "__main__":
    main()
