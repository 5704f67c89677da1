"""Importing from an old server that had wrongly rejected events itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import compare
from tests.harness.client import Client
from tests.harness.federation import running
from tests.harness.hostile import HostilePeer
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import (
    OldWorld,
    accepted,
    begin_room,
    sources,
    states,
    untouched,
    with_third,
)

GAPS = "SELECT event_id FROM event_backward_extremities WHERE room_id = ?"


def wrong(world: OldWorld, cara: Client) -> list[str]:
    """Lets A reject power levels by mistake, and all that cites them; gives what nobody may accept.

    Meanwhile A's users go on on their own, and change the room's state as well.
    """
    a, c, r, alice, carol = world.a, world.c, world.room_id, world.alice, world.carol
    levels = alice.get_state(r, "m.room.power_levels")
    levels["users"][carol.user_id] = 90
    levels.setdefault("events", {})["m.room.power_levels"] = 80
    c.wait_for_event(alice.send_state(r, "m.room.power_levels", levels))
    cara.join(r, via=a.name)
    wait_for(lambda: cara.user_id in alice.members(r), what="A to see cara")
    c.wait_for_event(alice.send_message(r, "All is well"))

    a.sabotage(type="m.room.power_levels", room_id=r)
    levels = carol.get_state(r, "m.room.power_levels")
    levels["users"][cara.user_id] = 60
    root = carol.send_state(r, "m.room.power_levels", levels)
    a.wait_for_event(root)
    a.sabotage_off()
    a.wait_for_event(cara.send_state(r, "m.room.topic", {"topic": "By cara"}))
    for number in range(3):
        last = carol.send_message(r, f"A does not hear me {number}")
    a.wait_for_event(last)
    assert {root, last} <= a.rejected(r)

    # On top of that, to A alone: a topic by somebody without the power, and what follows it.
    sees = HostilePeer(c, r)
    bad, bad_id = sees.forge("m.room.topic", f"@nobody:{c.name}", {"topic": "Mine"}, state_key="")
    content = {"msgtype": "m.text", "body": "After the bad one"}
    good, good_id = sees.forge(
        "m.room.message", carol.user_id, content, prev_events=[bad_id], depth=bad["depth"] + 1
    )
    sees.send(a, bad, good)
    a.wait_for_event(good_id)
    assert {bad_id, good_id} <= a.rejected(r)

    c.wait_for_event(alice.send_state(r, "m.room.name", {"name": "By alice"}))
    c.wait_for_event(alice.send_message(r, "Where is everybody?"))
    # Merges what A said on its own: there the states differ, and have to be resolved.
    a.wait_for_event(carol.send_message(r, "Here"))
    a.wait_for_event(cara.send_state(r, "m.room.topic", {"topic": "By cara again"}))
    return [bad_id, good_id]


@contextmanager
def wronged_world(tmp_path: Path) -> Iterator[tuple[OldWorld, str, str, list[str]]]:
    """A is wrong, B has joined by way of C, and both are gone.

    Gives the world, what nobody may accept, what follows that, and C's order of the room.
    """
    a, c = Server(tmp_path / "a", modules=[]), Server(tmp_path / "c", modules=[])
    b = Server(tmp_path / "b", modules=sources(old=a.database.synapse_config()))
    with running(a, b, c):
        alice, anna = a.register("alice", admin=True), a.register("anna")
        bob, carol, cara = b.register("bob", admin=True), c.register("carol"), c.register("cara")
        world = with_third(begin_room(a, b, alice, anna, bob, "11"), c, carol)
        r = world.room_id
        bad, good = wrong(world, cara)
        # Of the room as it is: not by way of the server that is wrong.
        bob.join(r, via=c.name)
        partial = "SELECT 1 FROM partial_state_rooms"
        wait_for(lambda: not b.database.query(partial), what="B's whole state")
        wait_for(lambda: bob.user_id in carol.members(r), what="C to see bob")
        order = [e["event_id"] for e in carol.messages(r)]
        a.stop()
        c.stop()
        yield world, bad, good, order
        assert b.database.query(GAPS, r) == []
        assert compare.inconsistencies(b, r) == {}
        assert b.errors_in_log() == []


@pytest.mark.slow
def test_what_the_source_rejected_by_mistake_arrives(tmp_path: Path) -> None:
    """It is judged anew by this server's own checks, and by the states that follow from them."""
    with wronged_world(tmp_path) as (world, bad, good, order):
        a, b, c, bob, r = world.a, world.b, world.c, world.bob, world.room_id
        whole, before, facts = accepted(c, r), accepted(b, r), untouched(b, bob, r)
        lost = a.rejected(r) - before
        assert len(lost) > 6
        come = (accepted(a, r) | lost) - {bad} - before

        summary = world.dry_run(judge_rejected=True)
        assert (summary["rejected"], summary["fails_auth"]) == (1, 0), summary
        assert summary["to_import"] == len(come), summary
        job = world.import_room(judge_rejected=True)
        assert (job["status"], job["skipped"]) == ("complete", {"rejected_by_source": 1}), job
        assert (job["imported"], job["done"]) == (len(come), job["total"])
        assert accepted(b, r) == come | before >= whole | {good}
        assert b.rejected(r) == {bad}
        assert states(b, whole) == states(c, whole)
        assert [e["event_id"] for e in bob.messages(r) if e["event_id"] in whole] == order
        assert untouched(b, bob, r) == facts
        again = world.import_room(judge_rejected=True)
        assert (again["status"], again["total"], again["skipped"]) == ("complete", 0, {}), again


@pytest.mark.slow
def test_otherwise_it_arrives_as_rejected(tmp_path: Path) -> None:
    with wronged_world(tmp_path) as (world, bad, good, _):
        a, b, bob, r = world.a, world.b, world.bob, world.room_id
        theirs, before, facts = accepted(a, r), accepted(b, r), untouched(b, bob, r)
        # What B was given as accepted, when it joined, is judged all the same.
        given = {i for (i,) in b.database.query("SELECT event_id FROM events WHERE outlier")}
        lost = a.rejected(r) - before - given
        assert {bad, good} <= lost

        summary = world.dry_run()
        job = world.import_room()
        assert (job["status"], job["skipped"]) == ("complete", {"rejected_by_source": len(lost)})
        assert (summary["rejected"], summary["to_import"]) == (len(lost), job["imported"])
        assert b.rejected(r) == lost
        assert theirs <= accepted(b, r)
        assert states(b, theirs - given) == states(a, theirs - given)
        assert untouched(b, bob, r) == facts
        assert world.import_room()["total"] == 0
