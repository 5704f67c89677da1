"""Measures an import: `python -m bench.imports [--events 20000] [--database postgres]`.

Prints, from one run on one server: how fast a dry run looks, how fast the history arrives at
the beginning and at the end, the memory that this takes, and what it does to other rooms.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack

import requests

from bench.history import write_history
from bench.latency import measured
from bench.memory import peak_of
from bench.worlds import megabytes, scratch
from tests.harness.client import REPAIR_API
from tests.harness.installs import INSTALLS
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import OVER, job_path, room_path, sources

_IDLE_SECONDS = 15


def run(events: int, database: str, synapse: str, latency: bool, checks: bool) -> None:
    with ExitStack() as stack:
        folder, b_database = stack.enter_context(scratch(database))
        a = Server(folder / "a", modules=[], log_level="WARNING")
        b = Server(
            folder / "b",
            install=INSTALLS[synapse],
            database=b_database,
            modules=[
                *sources(old=a.database.synapse_config()),
                *([] if checks else [{"module": "bench.ready.WithoutChecks", "config": {}}]),
            ],
            log_level="WARNING",
        )
        stack.callback(a.stop)
        stack.callback(b.stop)
        a.start()
        alice, anna = a.register("alice", admin=True), a.register("anna")
        room_id = alice.create_room("11", name="A long history")
        anna.join(room_id)
        a.stop()
        began = time.monotonic()
        write_history(a, room_id, [alice, anna], events)
        print(f"history      {events} events written in {time.monotonic() - began:.0f} s")
        a.start()
        b.start()
        bob = b.register("bob", admin=True)
        bob.join(room_id, via=a.name)
        partial = "SELECT 1 FROM partial_state_rooms WHERE room_id = ?"
        wait_for(lambda: not b.database.query(partial, room_id), what="B's whole state")
        a.stop()

        other = b.register("other")
        quiet = other.create_room("11")
        if latency:
            with measured(other, quiet) as idle:
                time.sleep(_IDLE_SECONDS)
        memory, began = b.memory()["VmRSS"], time.monotonic()
        with peak_of(b) as looking:
            found = requests.post(
                b.url + REPAIR_API + room_path(room_id, "import"),
                json={"source": "old"},
                headers={"Authorization": f"Bearer {bob.access_token}"},
                timeout=3600,
            )
        seconds = time.monotonic() - began
        lacking = found.json()["summary"]["to_import"]
        print(
            f"dry run      {lacking} events in {seconds:.1f} s: {lacking / seconds:.0f} events/s,"
            f" {megabytes(looking.growth)} over idle"
        )

        began = time.monotonic()
        body = {"source": "old", "dry_run": False}
        job_id = bob.repair_api("POST", room_path(room_id, "import"), body)["import_id"]
        marks = []

        def over() -> bool:
            # Not over HTTP: an import makes way for whoever asks something of the server.
            sql = "SELECT status, progress FROM rejection_repair_jobs WHERE job_id = ?"
            ((status, progress),) = b.database.query(sql, job_id)
            marks.append((time.monotonic() - began, json.loads(progress)["imported"]))
            return status in OVER

        with peak_of(b):
            if latency:
                with measured(other, quiet) as busy:
                    wait_for(over, 3600, interval=0.5)
            else:
                wait_for(over, 3600, interval=0.5)
            grown = b.memory()["VmHWM"] - memory
        job = bob.repair_api("GET", job_path(job_id))
        seconds = (job["finished_ts"] - job["started_ts"]) / 1000
        print(
            f"import       {job['imported']} events in {seconds:.1f} s:"
            f" {job['imported'] / seconds:.0f} events/s, {job['status']} {job['skipped']}"
        )
        for share in (0.02, 0.1, 0.25, 0.5, 0.75, 1.0):
            at = max(i for i, (_, n) in enumerate(marks) if n <= lacking * share)
            before = max((i for i in range(at) if marks[at][0] - marks[i][0] >= 4), default=0)
            passed = marks[at][0] - marks[before][0] or 1
            print(f"  at {share:4.0%}    {(marks[at][1] - marks[before][1]) / passed:.0f} events/s")
        print(f"memory       {megabytes(grown)} over idle")
        if latency:
            for what in ("send", "sync"):
                print(
                    f"{what}, median (95 %)  {busy.median(what):.1f} ms ({busy.p95(what):.0f}),"
                    f" idle {idle.median(what):.1f} ms ({idle.p95(what):.0f})"
                )
        for error in b.errors_in_log()[:3]:
            print(error[:500])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--synapse", choices=sorted(INSTALLS), default="newest")
    parser.add_argument("--latency", action="store_true", help="measure other rooms too")
    parser.add_argument(
        "--no-checks", action="store_true", help="Synapse's persistence alone, for comparison"
    )
    arguments = parser.parse_args()
    run(
        arguments.events,
        arguments.database,
        arguments.synapse,
        arguments.latency,
        not arguments.no_checks,
    )


if __name__ == "__main__":
    main()
