"""Servers that are killed again and again, at random, in the midst of repairs and imports.

In the end every table has what it has where nothing was killed. `KILLS` says how often, `SEED`
repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.history import write_history
from tests.harness import tables
from tests.harness.brake import brake
from tests.harness.braked import PERSIST, braked_pair, keep, rewind
from tests.harness.client import Client
from tests.harness.damage import assert_whole, make_damage
from tests.harness.federation import running
from tests.harness.server import Server
from tests.oldworld import OVER, begin, come_late, room_path, sources

KILLS = int(os.environ.get("KILLS", "100"))
SEED = int(os.environ.get("SEED", str(random.randrange(10**6))))
LATEST = 2.0
"""How long after it answers again a server is killed at the latest, in seconds."""


def killed_until_over(
    server: Server, admin: Client, jobs: str, path: str, chance: random.Random
) -> tuple[int, Any]:
    """Kills a server over and over, until the newest of its jobs is over; gives the job too."""
    kills = 0
    while True:
        until = time.monotonic() + chance.uniform(0, LATEST)
        while time.monotonic() < until:
            job = admin.repair_api("GET", jobs)[path][0]
            if job["status"] in OVER:
                return kills, job
            time.sleep(0.05)
        server.kill()
        server.start()
        kills += 1


def campaign(
    server: Server,
    copy: Path,
    control: Path,
    start: Callable[[], object],
    done: Callable[[], Any],
    admin: Client,
    jobs: str,
    room_id: str,
) -> int:
    """Repeats what is to be killed, until there have been enough kills; gives how many."""
    print(f"\n{jobs}: SEED={SEED}")
    chance = random.Random(SEED)
    rewind(server, copy)
    server.start()
    start()
    while admin.repair_api("GET", "/" + jobs)[jobs][0]["status"] not in OVER:
        time.sleep(0.1)
    undisturbed = admin.repair_api("GET", "/" + jobs)[jobs][0]
    done()
    server.stop()
    expected = tables.contents(server, room_id)

    kills = rounds = 0
    while kills < KILLS / 2:
        rewind(server, copy)
        brake(control, {"transaction": PERSIST, "seconds": 0.2})
        server.start()
        start()
        more, job = killed_until_over(server, admin, "/" + jobs, jobs, chance)
        brake(control)
        kills, rounds = kills + more, rounds + 1
        for field in ("status", "error", "done", "accepted", "imported", "rejected", "skipped"):
            assert job.get(field) == undisturbed.get(field), (field, job, undisturbed)
        done()
        assert server.errors_in_log() == []
        server.stop()
        assert tables.differences(expected, tables.contents(server, room_id)) == {}
    print(f"{jobs}: {kills} kills in {rounds} rounds")
    return kills


def test_repairs(tmp_path: Path) -> None:
    with braked_pair(tmp_path) as braked:
        room, copy = braked.pair.room("10"), tmp_path / "copy.db"
        make_damage(room, 600)
        room.bob.messages(room.room_id)
        room.b.stop()
        keep(room.b, copy)

        def start() -> None:
            room.bob.repair_api("POST", room_path(room.room_id, "repair"), {"dry_run": False})

        assert (
            campaign(
                room.b,
                copy,
                braked.control,
                start,
                lambda: assert_whole(room),
                room.bob,
                "repairs",
                room.room_id,
            )
            >= KILLS / 2
        )


def test_imports(tmp_path: Path) -> None:
    control, copy = tmp_path / "brake.json", tmp_path / "copy.db"
    a = Server(tmp_path / "a", modules=[])
    b = Server(
        tmp_path / "b",
        modules=[
            {"module": "tests.harness.brake.Brake", "config": {"control": str(control)}},
            *sources(old=a.database.synapse_config()),
        ],
    )
    with running(a, b):
        world = begin(a, b, "11")
        a.stop()
        write_history(a, world.room_id, [world.alice, world.anna], 1500)
        a.start()
        come_late(world)
        a.stop()
        b.stop()
        keep(b, copy)

        def start() -> None:
            path = room_path(world.room_id, "import")
            world.bob.repair_api("POST", path, {"source": "old", "dry_run": False})

        def done() -> None:
            seen = [e["event_id"] for e in world.bob.messages(world.room_id)]
            assert seen == world.order

        assert (
            campaign(b, copy, control, start, done, world.bob, "imports", world.room_id)
            >= KILLS / 2
        )
