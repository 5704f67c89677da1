"""Measures looking at large incidents: `python -m bench.diagnosis [--events 100000]`.

Writes a cascade of signed events straight into the stopped server's database, as Synapse
stores rejected ones, and prints, from one run, how long each endpoint takes, the memory that
it takes, and how long other requests wait meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

from bench.cascade import chain, reject_root
from bench.memory import peak_of
from bench.probe import holds, watch
from bench.rejected import store_rejected
from bench.repair import servers
from bench.worlds import megabytes, row
from tests.harness.client import Client, quoted
from tests.harness.server import Server


@contextmanager
def waiting(server: Server) -> Iterator[list[float]]:
    """Asks the server for next to nothing all the while; gives how long each answer took, in ms."""
    waits: list[float] = []
    over = threading.Event()

    def run() -> None:
        with requests.Session() as session:
            while not over.is_set():
                began = time.monotonic()
                session.get(f"{server.url}/_matrix/client/versions", timeout=60)
                waits.append((time.monotonic() - began) * 1000)
                over.wait(0.005)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield waits
    finally:
        over.set()
        thread.join()


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="how long the cascade is")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    options = parser.parse_args()

    with servers(options.database, "newest") as pair:
        rooms = []
        for length in (options.events // 100, options.events // 10, options.events):
            room = pair.room("10")
            root = reject_root(room)
            events = chain(room, root, length)
            pair.b.stop()
            store_rejected(room, events)
            report = watch(pair.b)
            pair.b.start()
            rooms.append((room, length))
        row("Synapse, database", f"{pair.b.install.version}, {options.database}")
        with waiting(pair.b) as waits:
            time.sleep(5)
        row("another request waits, idle, median (most)", _waits(waits))
        for room, length in rooms:
            for name, call in _calls(room.bob, room.room_id, length).items():
                with peak_of(pair.b) as peak, holds(report) as held, waiting(pair.b) as waits:
                    began = time.monotonic()
                    call()
                    took = time.monotonic() - began
                row(
                    f"{length} rejected events: {name}",
                    f"{took:.2f} s, {megabytes(peak.growth)}, waits {_waits(waits)},"
                    f" held {held.longest:.0f} ms",
                )


def _calls(admin: Client, room_id: str, length: int) -> dict[str, Callable[[], object]]:
    path = "/rooms" + quoted(room_id)
    last = {"from": max(0, length - 100)}
    return {
        "rooms": lambda: admin.repair_api("GET", "/rooms"),
        "rejections": lambda: admin.repair_api("GET", path + "/rejections"),
        "rejections, the last page": lambda: admin.repair_api(
            "GET", path + "/rejections", params=last
        ),
        "diagnosis": lambda: admin.repair_api("GET", path + "/diagnosis"),
        "plan": lambda: admin.repair_api("POST", path + "/repair", json={}),
    }


def _waits(waits: list[float]) -> str:
    return f"{statistics.median(waits):.1f} ms ({max(waits):.0f})"


if __name__ == "__main__":
    main()
