"""An import makes way for whoever uses the server, and not for who watches the import."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.harness.brake import brake
from tests.harness.braked import PERSIST
from tests.harness.waiting import wait_for
from tests.oldworld import OVER, OldWorld, job_path, old_world
from tests.test_import_interrupted import loads_brake

BESIDE_OTHERS = 25
"""Of how many events the batches are at most while somebody uses the server."""


@pytest.mark.slow
@pytest.mark.parametrize("watches", [True, False], ids=["watched", "used"])
def test_batches(tmp_path: Path, watches: bool) -> None:
    control = tmp_path / "brake.json"
    with old_world(
        tmp_path, "11", messages=120, modules=lambda a: loads_brake(control, a)
    ) as world:
        brake(control, {"transaction": PERSIST, "seconds": 0.3})
        job_id = world.start_import()

        def ask() -> None:
            if watches:
                world.bob.repair_api("GET", job_path(job_id))
            else:
                world.bob.call("GET", "/_matrix/client/versions")

        sizes = batches(world, job_id, ask)
        assert sum(sizes) > 5 * BESIDE_OTHERS
        assert (max(sizes) > BESIDE_OTHERS) is watches, sizes


def batches(world: OldWorld, job_id: str, ask: Callable[[], None]) -> list[int]:
    """How many events were stored at a time, while the server was asked all the time."""
    seen = [0]

    def over() -> bool:
        ask()
        ((status, progress),) = world.b.database.query(
            "SELECT status, progress FROM rejection_repair_jobs WHERE job_id = ?", job_id
        )
        seen.append(json.loads(progress)["imported"])
        return status in OVER

    wait_for(over, timeout=120, interval=0.03, what="the import to end")
    return [after - before for before, after in pairwise(seen) if after > before]
