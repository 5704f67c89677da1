"""Repairs that are killed at each transaction that stores events, where that is not all."""

from __future__ import annotations

import pytest

from tests.harness import compare, flavours
from tests.harness.braked import PERSIST, Braked
from tests.harness.client import JsonDict
from tests.harness.federation import Room
from tests.harness.flavours import Flavour
from tests.harness.incident import promote
from tests.harness.losing import lose, lose_invite
from tests.harness.repairing import dry_run, finished, health, progress, repair, start
from tests.harness.waiting import wait_for

pytestmark = pytest.mark.slow
EACH = pytest.mark.parametrize("moment", ["before", "after"])


def killed_at_each(braked: Braked, room: Room, moment: str, nth: int) -> tuple[JsonDict, int]:
    """Kills B over and over until a repair is over.

    Args:
        braked: The pair.
        room: The room to repair.
        moment: Before or after such a transaction commits.
        nth: Which one after each start: there has to be progress.

    Returns:
        The repair as it has ended, and how often B was killed.
    """
    b, bob = room.b, room.bob
    status = "SELECT status FROM rejection_repair_jobs WHERE job_id = ?"
    braked.kill_in(PERSIST, nth, moment)
    # It begins when its answer is there, or else the kill comes before that.
    repair_id = start(bob, room.room_id)

    def over() -> bool:
        return b.database.value(status, repair_id) not in ("scheduled", "active")

    for kills in range(30):
        wait_for(lambda: not b.running or over(), what="a kill or the end")
        if over():
            braked.release()
            if not b.running:
                b.kill()
                b.start()
            return progress(bob, repair_id), kills
        b.kill()
        assert compare.extremities(b, room.room_id), "a room must never be without any"
        braked.kill_in(PERSIST, nth, moment)
        b.launch()
    raise AssertionError("it makes no progress")


@pytest.mark.parametrize(("moment", "nth"), [("before", 5), ("after", 2), ("after", 5)])
@pytest.mark.parametrize(
    "braked", [flavours.NEWEST, Flavour(b="oldest", database="postgres").param()], indirect=True
)
def test_where_events_are_stored_one_by_one(braked: Braked, moment: str, nth: int) -> None:
    # Synapse cannot take a thread away that is not there any more.
    room = braked.pair.room("10")
    r, alice = room.room_id, room.alice
    root = alice.send_message(r, "A thread begins")
    said = alice.send_in_thread(r, root, "In the thread")
    room.wait_everywhere(said)
    x = lose(room, lambda: promote(room, room.carol, 50), type="m.room.power_levels")
    lost = [alice.send_message(r, f"Lost {number}") for number in range(3)]
    redaction = alice.redact(r, said)
    lost += [alice.send_message(r, f"Lost as well {number}") for number in range(3)]
    room.b.wait_for_event(lost[-1])
    assert room.b.rejected(r) == {x, redaction, *lost}
    (thread,) = room.b.database.query("SELECT * FROM threads WHERE thread_id = ?", root)
    assert room.b.database.execute("DELETE FROM threads WHERE thread_id = ?", root) == 1

    # After each start the first one is that of all of them at once, which fails.
    job, kills = killed_at_each(braked, room, moment, nth)
    assert kills >= 2
    assert (job["status"], job["accepted"], job["rejected"]) == ("failed", 1 + len(lost), 1)
    assert redaction in job["error"]
    assert room.b.rejected(r) == {redaction}
    assert compare.inconsistencies(room.b, r) == {}

    marks = ", ".join("?" for _ in thread)
    room.b.database.execute(f"INSERT INTO threads VALUES ({marks})", *thread)
    assert repair(room.bob, r)["accepted"] == 1
    assert compare.differences(room) == {}


@EACH
@flavours.BOTH_DATABASES
def test_where_an_invite_at_the_end_is_received(braked: Braked, moment: str) -> None:
    room = braked.pair.room("11")
    r, bob = room.room_id, room.bob
    guest = room.b.register(f"guest-{moment}")
    invite = lose_invite(room, guest)
    assert dry_run(bob, r)["gaps"] == [{"event_id": invite, "cited_by": []}]

    job, kills = killed_at_each(braked, room, moment, 1 if moment == "after" else 2)
    assert kills >= 1
    assert (job["status"], job["error"], job["accepted"]) == ("complete", None, 2)
    assert compare.differences(room) == {}
    assert bob.members(r, membership=None)[guest.user_id] == "invite"
    assert health(bob, r) == {}
    assert finished(bob, start(bob, r))["total"] == 0
