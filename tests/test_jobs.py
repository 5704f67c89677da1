"""Jobs of whatever kind: how a process comes to run them, and that it always does."""

from __future__ import annotations

import json
import time

import pytest

from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.repair import RepairProgress, RepairRequest
from synapse_rejection_repair.domain.scope import Scope
from tests.harness import flavours
from tests.harness.brake import brake
from tests.harness.braked import Braked
from tests.harness.client import MatrixError, quoted
from tests.harness.losing import lose_message
from tests.harness.repairing import diagnosis, finished, progress, repair, start
from tests.harness.server import Server
from tests.harness.waiting import wait_for

LOOK = "rejection_repair_unfinished_jobs"
BEGIN = "rejection_repair_begin_job"


def leave_job(server: Server, job_id: str, room_id: str) -> None:
    """Leaves a job that was asked of another process and has not begun."""
    server.database.execute(
        "INSERT INTO rejection_repair_jobs (job_id, kind, room_id, status, request, progress,"
        " created_ts, cancel_requested) VALUES (?, 'repair', ?, 'scheduled', ?, ?, ?, 0)",
        job_id,
        room_id,
        json.dumps(RepairRequest(Scope(), Deliver.LIVE).to_json()),
        json.dumps(RepairProgress().to_json()),
        int(time.time() * 1000),
    )


@flavours.BOTH_DATABASES
def test_a_job_that_nobody_takes_up_can_be_called_off(braked: Braked) -> None:
    room = braked.pair.room("11")
    lose_message(room, "Lost")
    braked.hold(1, LOOK)
    leave_job(room.b, "left", room.room_id)
    with pytest.raises(MatrixError, match="left"):
        start(room.bob, room.room_id)
    over = room.bob.repair_api("POST", "/repairs" + quoted("left", "cancel"), {})
    assert (over["status"], over["accepted"], over["started_ts"]) == ("cancelled", 0, None)
    assert over["finished_ts"] is not None
    with pytest.raises(MatrixError, match="is over already: cancelled"):
        room.bob.repair_api("POST", "/repairs" + quoted("left", "cancel"), {})
    assert repair(room.bob, room.room_id)["accepted"] == 1
    braked.release()
    assert progress(room.bob, "left") == over


@flavours.BOTH_DATABASES
def test_a_job_that_is_called_off_as_it_is_taken_up_does_not_begin(braked: Braked) -> None:
    room = braked.pair.room("11")
    lost = lose_message(room, "Lost")
    braked.hold(1, BEGIN)
    job_id = start(room.bob, room.room_id)
    path = "/repairs" + quoted(job_id, "cancel")
    assert room.bob.repair_api("POST", path, {})["status"] == "cancelled"
    over = progress(room.bob, job_id)
    # Two at a time: the next one gets its turn as well.
    again = start(room.bob, room.room_id)
    braked.release()
    assert finished(room.bob, again)["accepted"] == 1
    assert progress(room.bob, job_id) == over
    assert lost not in room.b.rejected(room.room_id)
    assert room.b.errors_in_log() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "transaction",
    ["rejection_repair_create_tables", LOOK, "rejection_repair_seen_rooms"],
)
def test_an_error_of_the_database_at_the_start(braked: Braked, transaction: str) -> None:
    room = braked.pair.room("11")
    lose_message(room, "Lost")
    room.b.stop()
    leave_job(room.b, transaction, room.room_id)
    brake(braked.control, {"transaction": transaction, "fail": 2})
    room.b.start()
    assert finished(room.bob, transaction, timeout=60)["accepted"] == 1
    # The watch listens as well: what is lost now is recorded.
    lose_message(room, "Lost again")

    def recorded() -> bool:
        return all(root["recorded"] for root in diagnosis(room.bob, room.room_id)["roots"])

    wait_for(recorded, what="the watch to record it")
    braked.release()
