"""Measures a repair: `python -m bench.repair [--events 10000] [--database postgres]`.

Prints, from one run on one server: how fast Synapse received (and rejected) a cascade, how
fast it is planned and repaired, the memory that this takes, and what it does to other rooms.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.cascade import LongCascade, make_cascade
from bench.latency import Latency, measured
from bench.memory import peak_of
from bench.worlds import megabytes, row, scratch
from tests.harness.client import Client, quoted
from tests.harness.federation import Pair, running
from tests.harness.installs import INSTALLS
from tests.harness.server import Server
from tests.harness.waiting import wait_for

_IDLE_SECONDS = 15


@contextmanager
def servers(database: str, synapse: str) -> Iterator[Pair]:
    """The two servers; B has the module, and the database that is asked for."""
    with scratch(database) as (folder, b_database):
        a = Server(folder / "a", modules=[], log_level="WARNING")
        b = Server(
            folder / "b", install=INSTALLS[synapse], database=b_database, log_level="WARNING"
        )
        with running(a, b):
            yield Pair(a, b)


def plan(admin: Client, room_id: str) -> float:
    """Makes a dry run; returns how long it took, in seconds."""
    began = time.monotonic()
    admin.repair_api("POST", "/rooms" + quoted(room_id, "repair"), json={})
    return time.monotonic() - began


def repair(admin: Client, room_id: str) -> tuple[int, float]:
    """Repairs a room; returns how many events were accepted, and the time in seconds."""
    began = time.monotonic()
    answer = admin.repair_api("POST", "/rooms" + quoted(room_id, "repair"), json={"dry_run": False})

    def job() -> dict[str, Any]:
        found: dict[str, Any] = admin.repair_api("GET", "/repairs" + quoted(answer["repair_id"]))
        return found

    def over() -> bool:
        return job()["status"] not in ("scheduled", "active")

    wait_for(over, timeout=1800, what="the repair to end", interval=0.2)
    ended = job()
    assert ended["status"] == "complete", ended["error"]
    return ended["accepted"], time.monotonic() - began


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000, help="how long the cascade is")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--synapse", choices=tuple(INSTALLS), default="newest")
    options = parser.parse_args()

    with servers(options.database, options.synapse) as pair:
        row("Synapse, database", f"{pair.b.install.version}, {options.database}")
        user = pair.b.register("elsewhere")
        other = user.create_room("10")
        # Each of the two comes first once: what a server does for the first time costs more.
        warm_up = make_cascade(pair, 200)
        plan(warm_up.room.bob, warm_up.room.room_id)
        repair(warm_up.room.bob, warm_up.room.room_id)
        with measured(user, other) as idle:
            time.sleep(_IDLE_SECONDS)

        small = make_cascade(pair, max(options.events // 10, 100))
        growth_small, *_ = _one(pair, small, user, other)
        long = make_cascade(pair, options.events)
        growth, plan_seconds, accepted, repair_seconds, busy = _one(pair, long, user, other)

        received = long.received_per_second
        planned, repaired = long.rejected / plan_seconds, accepted / repair_seconds
        row("events in the cascade", f"{long.rejected}")
        row("received and rejected by Synapse", f"{received:.0f}/s")
        row("planned", f"{planned:.0f}/s = {planned / received:.1f} x received")
        row("repaired", f"{repaired:.0f}/s = {repaired / received:.1f} x received")
        row(f"memory over idle, {small.rejected} events", megabytes(growth_small))
        row(f"memory over idle, {long.rejected} events", megabytes(growth))
        for what in ("send", "sync"):
            row(
                f"{what} in another room, median (95 %), idle",
                f"{idle.median(what):.1f} ms ({idle.p95(what):.1f})",
            )
            row(
                f"{what} in another room, median (95 %), repairing",
                f"{busy.median(what):.1f} ms ({busy.p95(what):.1f})"
                f" = {busy.median(what) / idle.median(what):.1f} x",
            )


def _one(
    pair: Pair, cascade: LongCascade, user: Client, other: str
) -> tuple[int, float, int, float, Latency]:
    admin, room_id = cascade.room.bob, cascade.room.room_id
    with peak_of(pair.b) as peak:
        plan_seconds = plan(admin, room_id)
        with measured(user, other) as busy:
            accepted, repair_seconds = repair(admin, room_id)
    return peak.growth, plan_seconds, accepted, repair_seconds, busy


if __name__ == "__main__":
    main()
