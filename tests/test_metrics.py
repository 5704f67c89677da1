"""What Prometheus is told of repairs and imports."""

from __future__ import annotations

import re
from pathlib import Path

import requests
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

import synapse_rejection_repair.adapter.alertchannel
import synapse_rejection_repair.adapter.metrics  # noqa: F401 (both register them)
from tests.harness.client import quoted
from tests.harness.federation import Pair, running
from tests.harness.incident import make_incident
from tests.harness.losing import lose_state
from tests.harness.process import REPOSITORY
from tests.harness.repairing import finished, repair
from tests.harness.server import Server
from tests.oldworld import begin, come_late, live, sources

PREFIX = "synapse_rejection_repair_"


def metrics(server: Server) -> dict[tuple[str, ...], float]:
    """The module's metrics, by name and by the values of the labels."""
    session = requests.Session()
    session.trust_env = False
    response = session.get(server.url + "/_synapse/metrics", timeout=30)
    assert response.ok, response.text
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            if sample.name.startswith(PREFIX):
                labels = dict(sample.labels)
                assert labels.pop("server_name") == server.name, "as all of Synapse's are labelled"
                key = (sample.name.removeprefix(PREFIX), *(v for _, v in sorted(labels.items())))
                found[key] = sample.value
    return found


def test_the_runbook_has_them_all() -> None:
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text()
    documented = set(re.findall(rf"^\| `({PREFIX}\w+)`", runbook, re.MULTILINE))
    exposed = {family.name for family in REGISTRY.collect() if family.name.startswith(PREFIX)}
    assert {name.removesuffix("_total") for name in documented} == exposed


def test_jobs_are_counted(tmp_path: Path) -> None:
    a = Server(tmp_path / "a", modules=[])
    b = Server(
        tmp_path / "b",
        modules=sources(old=a.database.synapse_config()),
        config={"enable_metrics": True},
    )
    with running(a, b):
        before = metrics(b)
        assert not any(name.startswith("jobs_total") for name, *_ in before)
        incident = make_incident(Pair(a, b).room("11"))
        repair(incident.room.bob, incident.room.room_id)
        room = Pair(a, b).room("11")
        lose_state(room, "m.room.topic", {"topic": "Lost"})
        repaired = repair(room.bob, room.room_id)["repair_id"]
        undo = "/repairs" + quoted(repaired, "undo")
        finished(room.bob, room.bob.repair_api("POST", undo, {"dry_run": False})["repair_id"])
        world = begin(a, b, "11")
        live(world, 4)
        come_late(world)
        imported = world.import_room()["imported"]
        assert imported > 0

        after = metrics(b)
        lost = len(incident.lost) + 1
        assert after["jobs_total", "repair", "complete"] == 2
        assert after["jobs_total", "undo", "complete"] == 1
        assert after["jobs_total", "import", "complete"] == 1
        assert after["events_total", "repair", "accepted"] == lost
        assert after["events_total", "repair", "left_rejected"] == 0
        assert after["events_total", "undo", "put_back"] == 1
        assert after["events_total", "import", "imported"] == imported
        assert after["job_duration_seconds_count", "repair"] == 2
        assert after["job_duration_seconds_sum", "repair"] > 0
        assert after["jobs_active", "repair"] == after["jobs_active", "import"] == 0
