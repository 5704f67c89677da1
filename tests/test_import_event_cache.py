"""An import leaves Synapse's cache of events to those that somebody reads."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import requests

from tests.harness.server import Server
from tests.oldworld import old_world, room_path


def test_an_old_history_pushes_nothing_out(tmp_path: Path) -> None:
    make_b = partial(Server, config={"enable_metrics": True})
    with old_world(tmp_path, "11", make_b=make_b) as world:
        before = cached(world.b)
        arrived = world.import_room()["imported"]
        # What the import itself looked up of what was here already.
        few = arrived // 10
        assert cached(world.b) - before <= few
        path = "/_matrix/client/v3" + room_path(world.room_id, "messages")
        world.bob.call("GET", path, params={"dir": "b", "limit": str(arrived)})
        assert cached(world.b) - before > few, "the cache takes what is read"


def cached(server: Server) -> float:
    """How many events are in the cache."""
    text = requests.get(f"{server.url}/_synapse/metrics", timeout=30).text
    size = r'^synapse_util_caches_cache_size{[^}]*name="\*getEvent\*"[^}]*} (\S+)$'
    (found,) = re.findall(size, text, re.MULTILINE)
    return float(found)
