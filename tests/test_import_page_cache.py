"""What an import changes about the server's SQLite connection, and that it changes it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.harness import sqlite_settings
from tests.harness.brake import brake
from tests.harness.braked import PERSIST
from tests.harness.waiting import wait_for
from tests.oldworld import OldWorld, finished, job_path, old_world
from tests.test_import_interrupted import loads_brake

BEFORE = {"cache_size": -2000, "wal_autocheckpoint": 1000}
"""What Python and SQLite have of themselves."""


@pytest.mark.parametrize("ends", ["complete", "cancelled", "failed"])
def test_more_is_kept_in_memory_while_much_is_stored(tmp_path: Path, ends: str) -> None:
    control = tmp_path / "brake.json"
    settings = "tests.harness.sqlite_settings.SqliteSettings"
    with old_world(
        tmp_path,
        "11",
        modules=lambda a: [*loads_brake(control, a), {"module": settings, "config": {}}],
    ) as world:
        assert seen(world) == BEFORE
        # A batch that was begun is stored, whatever comes.
        brake(control, {"transaction": PERSIST, "hold": 2})
        import_id = world.start_import(events_per_second=100)
        wait_for(lambda: world.bob.repair_api("GET", job_path(import_id))["imported"], what="some")
        during = seen(world)
        assert during["cache_size"] < BEFORE["cache_size"]
        assert during["wal_autocheckpoint"] > BEFORE["wal_autocheckpoint"]
        if ends == "cancelled":
            world.bob.repair_api("POST", job_path(import_id) + "/cancel", {})
        if ends == "failed":
            world.a.database.execute("DROP TABLE event_json")
        brake(control)
        assert finished(world.bob, import_id)["status"] == ends
        assert seen(world) == BEFORE


def seen(world: OldWorld) -> dict[str, Any]:
    answer = requests.get(world.b.url + sqlite_settings.PATH, timeout=30)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found
