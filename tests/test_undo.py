"""Repairs that are undone: the room is as it was before, and can be repaired again."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.harness import compare, flavours
from tests.harness.braked import Braked
from tests.harness.client import Client, JsonDict, MatrixError, quoted
from tests.harness.damage import assert_whole, make_damage
from tests.harness.derived import derived
from tests.harness.federation import Room
from tests.harness.flavours import Flavour
from tests.harness.hostile import HostilePeer
from tests.harness.incident import make_incident
from tests.harness.losing import everywhere, lose, lose_state
from tests.harness.repairing import diagnosis, dry_run, finished, health, progress, repair
from tests.harness.waiting import wait_for
from tests.openapi import Contract, Judge

UNDO = "rejection_repair_undo"
SAVE = "rejection_repair_save_job"
BUMP = "rejection_repair_undo_bump"
CURRENT_STATE = "update_current_state"
STATISTICS = "bulk_update_stats_delta"
LENGTH = 160

_OWN = (
    "events",
    "event_json",
    "rejections",
    "event_edges",
    "event_auth",
    "state_events",
    "event_to_state_groups",
    "room_memberships",
    "event_relations",
    "redactions",
    "event_labels",
    "room_retention",
)


def undo(user: Client, repair_id: str, **body: Any) -> JsonDict:
    path = "/v1/repairs" + quoted(repair_id, "undo")
    answer: JsonDict = Judge(Contract(tags={"Repair"}), user).ok("POST", path, body)
    return answer


def undone(user: Client, repair_id: str) -> JsonDict:
    started = undo(user, repair_id, dry_run=False)
    job = finished(user, started["repair_id"])
    assert (job["status"], job["error"], job["undoes"]) == ("complete", None, repair_id), job
    return job


def refused(user: Client, repair_id: str) -> JsonDict:
    answers = []
    for body in ({}, {"dry_run": False}):
        with pytest.raises(MatrixError) as error:
            user.repair_api("POST", "/repairs" + quoted(repair_id, "undo"), body)
        assert (error.value.status, error.value.errcode) == (409, "M_CONFLICT")
        answers.append(error.value.response.json())
    assert answers[0] == answers[1]
    found: JsonDict = answers[0]
    return found


def facts(room: Room) -> dict[str, Any]:
    """All that an undo has to bring back, as the database, the endpoints and users have it."""
    b, r = room.b, room.room_id
    # Scrolling up lets Synapse fetch what is above: that is none of ours.
    messages = [e["event_id"] for e in room.bob.messages(r)]
    ids = {i for (i,) in b.database.query("SELECT event_id FROM events WHERE room_id = ?", r)}
    found: dict[str, Any] = {
        table: sorted(
            (row for row in b.database.query(f"SELECT * FROM {table}") if ids & {*row}),
            key=repr,
        )
        for table in _OWN
    }
    found |= compare.database_facets(room, b)
    found |= derived(room)
    found["diagnosis"] = diagnosis(room.bob, r)
    for root in found["diagnosis"]["roots"]:
        # Written in the background, some seconds after the rejection: an undo has no part in it.
        del root["recorded"]
    found["health"] = health(room.bob, r)
    found["plan"] = dry_run(room.bob, r)
    found["messages"] = messages
    found["levels"] = room.bob.get_state(r, "m.room.power_levels")
    found["members"] = room.bob.members(r)
    found["state"] = {key: event["event_id"] for key, event in room.bob.state(r).items()}
    found["inconsistencies"] = compare.inconsistencies(b, r)
    return found


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    differ = {
        name: compare.describe(before[name], after[name])
        for name in before
        if before[name] != after[name]
    }
    assert differ == {}


@flavours.BOTH_DATABASES
def test_the_room_is_as_it_was(braked: Braked) -> None:
    room = braked.pair.room("11")
    policy = {"max_lifetime": 10 * 365 * 86_400_000}
    lost = [
        *make_damage(room, 40).lost,
        room.alice.send_state(room.room_id, "m.room.retention", policy),
    ]
    room.b.wait_for_event(lost[-1])
    unindexed = room.bob.send_message(room.room_id, "Not to be found")
    everywhere(room, unindexed)
    room.b.stop()
    room.b.database.execute("DELETE FROM event_search WHERE event_id = ?", unindexed)
    room.b.start()
    before = facts(room)
    repaired = repair(room.bob, room.room_id)
    assert_whole(room)

    whole = facts(room)
    noted = room.b.database.query("SELECT COUNT(*) FROM rejection_repair_journal")
    plan = undo(room.bob, repaired["repair_id"])
    assert_same(whole, facts(room))
    assert room.b.database.query("SELECT COUNT(*) FROM rejection_repair_journal") == noted
    restated = before["plan"]["summary"]["restate"]
    assert restated > 0
    assert plan["summary"] == {
        "receive": len(lost),
        "reject": 0,
        "restate": restated,
        "index": 1,
        "state_changes": [
            {**c, "from": c["to"], "to": c["from"]} for c in repaired["state_changes"]
        ],
    }
    # The unindexed message is one of those that were restated.
    assert plan["events_total"] == len(plan["events"]) == len(lost) + restated
    actions = {e["event_id"]: e["actions"] for e in plan["events"]}
    assert sorted(actions[unindexed]) == ["index", "restate"]

    job = undone(room.bob, repaired["repair_id"])
    assert job["state_changes"] == plan["summary"]["state_changes"]
    assert job["total"] == job["done"] == plan["events_total"]
    assert_same(before, facts(room))
    room.b.restart()
    assert_same(before, facts(room))

    said = refused(room.bob, repaired["repair_id"])["error"]
    assert said.endswith(f"has been undone already, by {job['repair_id']}")
    assert "repair the room" in refused(room.bob, job["repair_id"])["error"]
    again = repair(room.bob, room.room_id)
    assert again["accepted"] == len(lost)
    assert_whole(room)
    assert room.b.errors_in_log() == []


def test_threads_edits_and_redactions(braked: Braked) -> None:
    incident = make_incident(braked.pair.room("10"))
    room = incident.room
    before = facts(room)
    repaired = repair(room.bob, room.room_id)
    undone(room.bob, repaired["repair_id"])
    assert_same(before, facts(room))
    assert not room.bob.search(incident.WORD, [room.room_id])
    assert repair(room.bob, room.room_id)["accepted"] == len(incident.lost)
    assert_whole(room)


def cure_by_sql(room: Room) -> None:
    """Does what admins do who know no better: takes the marks of rejection away."""
    room.b.stop()
    lost = "SELECT event_id FROM events WHERE room_id = ?"
    room.b.database.execute(f"DELETE FROM rejections WHERE event_id IN ({lost})", room.room_id)
    room.b.database.execute(
        "UPDATE events SET rejection_reason = NULL WHERE room_id = ?", room.room_id
    )
    room.b.start()


def test_what_was_cured_by_sql(braked: Braked) -> None:
    incident = make_incident(braked.pair.room("11"))
    room = incident.room
    cure_by_sql(room)
    before = facts(room)
    repaired = repair(room.bob, room.room_id)
    assert repaired["accepted"] == len(incident.lost)
    assert_whole(room)
    undone(room.bob, repaired["repair_id"])
    assert_same(before, facts(room))
    again = repair(room.bob, room.room_id)
    assert again["accepted"] == len(incident.lost)
    assert_whole(room)

    # An earlier version did not note where the room ended.
    row = "FROM rejection_repair_jobs WHERE job_id = ?"
    noted = json.loads(room.b.database.value(f"SELECT progress {row}", again["repair_id"]))
    assert {*noted.pop("start_extremities")} == {i for (i,) in before["extremities"]}
    room.b.database.execute(
        "UPDATE rejection_repair_jobs SET progress = ? WHERE job_id = ?",
        json.dumps(noted),
        again["repair_id"],
    )
    undone(room.bob, again["repair_id"])
    assert_same(before, facts(room))


def test_a_damaged_event_that_the_room_ended_with(braked: Braked) -> None:
    room = braked.pair.room("11")
    end = room.alice.send_state(room.room_id, "test.end", {})
    everywhere(room, end)
    sticky = (
        "INSERT INTO sticky_events (stream_id, instance_name, event_id, room_id,"
        " event_stream_ordering, sender, expires_at)"
        " SELECT stream_ordering, 'master', event_id, room_id, stream_ordering, sender, ?"
        " FROM events WHERE event_id = ?"
    )
    on_its_way = "SELECT COUNT(*) FROM federation_inbound_events_staging"
    wait_for(lambda: not room.b.database.value(on_its_way), what="B to be done with the event")
    room.b.stop()
    room.b.database.execute("DELETE FROM event_edges WHERE event_id = ?", end)
    room.b.database.execute(sticky, 2**52, end)
    room.b.start()
    before = facts(room)
    assert before["extremities"] == {(end,)}
    repaired = repair(room.bob, room.room_id)
    assert repaired["accepted"] == 1
    assert_whole(room)
    # It was sticky by hand: Synapse, which does so only where it is told to, has not made it so.
    rows = "SELECT COUNT(*) FROM sticky_events WHERE event_id = ?"
    assert room.b.database.value(rows, end) == 0
    undone(room.bob, repaired["repair_id"])
    assert_same(before, facts(room))
    assert room.b.database.value(rows, end) == 1


def test_what_was_public_for_a_repair_is_private_again(braked: Braked) -> None:
    room = braked.pair.room("11")
    private = room.alice.send_state(room.room_id, "m.room.join_rules", {"join_rule": "invite"})
    everywhere(room, private)
    public = lose_state(room, "m.room.join_rules", {"join_rule": "public"})
    before = facts(room)
    assert before["users who share a private room"]
    repaired = repair(room.bob, room.room_id)
    assert room.bob.state(room.room_id)["m.room.join_rules", ""]["event_id"] == public
    assert derived(room)["users in a public room"]
    undone(room.bob, repaired["repair_id"])
    assert_same(before, facts(room))


def test_relations_that_a_repaired_redaction_took_away(braked: Braked) -> None:
    room = braked.pair.room("11")
    r, alice, bob = room.room_id, room.alice, room.bob
    root = alice.send_message(r, "Said well before")
    reaction = alice.react(r, root, "👏")
    edit = alice.edit(r, root, "Said better")
    replies = [alice.send_in_thread(r, root, f"No. {number}") for number in range(2)]
    other = alice.send_message(r, "Another thread")
    lonely = alice.send_in_thread(r, other, "Alone in it")
    twice = alice.react(r, root, "👍")
    everywhere(room, root, reaction, edit, *replies, lonely, twice)
    doomed = [reaction, edit, replies[-1], lonely, twice]
    lost = {
        lose(room, lambda: alice.redact(r, event_id), type="m.room.redaction")  # noqa: B023
        for event_id in [*doomed, twice]
    }
    # This one stands, whatever becomes of the lost ones.
    everywhere(room, alice.redact(r, twice))
    related = {e["event_id"] for e in bob.relations(r, root)}
    assert related == {reaction, edit, *replies}
    before = facts(room)
    repaired = repair(bob, r)
    assert {e["event_id"] for e in bob.relations(r, root)} == {replies[0]}
    assert_whole(room)

    undone(bob, repaired["repair_id"])
    assert room.b.rejected(r) == lost
    assert {e["event_id"] for e in bob.relations(r, root)} == related
    assert_same(before, facts(room))
    repair(bob, r)
    assert_whole(room)


@pytest.mark.slow
@pytest.mark.parametrize("braked", flavours.ALL, indirect=True)
def test_what_waits_meanwhile_is_not_stored_on_what_was_put_back(braked: Braked) -> None:
    incident = make_incident(braked.pair.room("11"))
    room, lost = incident.room, {*incident.lost}
    r, bob, carol, alice = room.room_id, room.bob, room.carol, room.alice
    before = compare.current_state(room.b, r)
    repaired = repair(bob, r)
    braked.hold(1, UNDO)
    job = undo(bob, repaired["repair_id"], dry_run=False)["repair_id"]
    wait_for(lambda: progress(bob, job)["status"] == "active")
    # It has yet to get hold of the room's writes.
    time.sleep(0.5)
    with ThreadPoolExecutor() as pool:
        waiting = [
            pool.submit(bob.send_message, r, "What a time to say something"),
            pool.submit(bob.react, r, incident.early_message, "⏳"),
        ]
        powerless = pool.submit(carol.send_state, r, "m.room.topic", {"topic": "Mine"})
        theirs = alice.send_message(r, "And something on top of it all")
        staged = "SELECT COUNT(*) FROM federation_inbound_events_staging WHERE event_id = ?"
        wait_for(lambda: room.b.database.value(staged, theirs))
        time.sleep(1)
        assert not any(one.done() for one in [*waiting, powerless]), "they were to wait"
        braked.release()
        assert finished(bob, job)["status"] == "complete"
        sent = [one.result() for one in waiting]
        with pytest.raises(MatrixError) as error:
            powerless.result()
    assert (error.value.status, error.value.errcode) == (403, "M_FORBIDDEN")
    room.b.wait_for_event(theirs)

    assert room.b.rejected(r) == {*lost, theirs}
    for event_id in sent:
        event = pdu(room, event_id)
        assert not lost & {*event["prev_events"], *event["auth_events"]}
    assert compare.current_state(room.b, r) == before
    assert compare.extremities(room.b, r) <= {*sent}
    assert compare.inconsistencies(room.b, r) == {}
    assert health(bob, r) == {"wrongly_rejected": len(lost) + 1}
    everywhere(room, *sent)
    assert repair(bob, r)["accepted"] == len(lost) + 1
    assert_whole(room)
    assert room.b.errors_in_log() == []


@pytest.mark.slow
def test_what_waits_beside_it_is_stored_as_it_came(braked: Braked) -> None:
    room = braked.pair.room("11")
    r, bob, alice = room.room_id, room.bob, room.alice
    early = alice.send_message(r, "Before it")
    everywhere(room, early)
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    repaired = repair(bob, r)
    peer = HostilePeer(room.a, r)
    content = {"msgtype": "m.text", "body": "On nothing of it"}
    aside, innocent = peer.forge("m.room.message", alice.user_id, content, prev_events=[early])
    braked.hold(1, UNDO)
    job = undo(bob, repaired["repair_id"], dry_run=False)["repair_id"]
    wait_for(lambda: progress(bob, job)["status"] == "active")
    # It has yet to get hold of the room's writes.
    time.sleep(0.5)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(bob.send_message, r, "On top of it")
        for server in (room.a, room.b):
            peer.send(server, aside)
        time.sleep(1)
        assert not waiting.done(), "it was to wait"
        braked.release()
        ours = waiting.result()
    assert finished(bob, job)["status"] == "complete"
    everywhere(room, innocent, ours)
    # Synapse has not judged it again, though it waited in one batch with what was refused.
    assert "un-partial stated while processing the PDU" not in room.b.log_text()
    assert "To be made or judged again" in room.b.log_text()
    assert room.b.rejected(r) == {topic}
    assert topic not in pdu(room, ours)["prev_events"]
    repair(bob, r)
    assert_whole(room)


def pdu(room: Room, event_id: str) -> JsonDict:
    sql = "SELECT json FROM event_json WHERE event_id = ?"
    event: JsonDict = json.loads(room.b.database.value(sql, event_id))
    return event


def test_state_that_was_replaced_since(braked: Braked) -> None:
    room = braked.pair.room("11")
    lose_state(room, "m.room.topic", {"topic": "Lost"})
    topic = room.alice.send_state(room.room_id, "m.room.topic", {"topic": "Not lost"})
    # Of this key there was none before.
    lose_state(room, "org.example.state", {"number": 1})
    other = room.alice.send_state(room.room_id, "org.example.state", {"number": 2})
    everywhere(room, topic, other)
    before = facts(room)
    shown = [room.bob.event(room.room_id, i)["unsigned"] for i in (topic, other)]
    repaired = repair(room.bob, room.room_id)
    assert_whole(room)
    undone(room.bob, repaired["repair_id"])
    assert_same(before, facts(room))
    again = [room.bob.event(room.room_id, i)["unsigned"] for i in (topic, other)]
    assert [u.get("replaces_state") for u in again] == [u.get("replaces_state") for u in shown]
    assert repair(room.bob, room.room_id)["accepted"] == 2
    assert_whole(room)


def test_it_is_not_stopped_half_way(braked: Braked) -> None:
    incident = make_incident(braked.pair.room("11"))
    room = incident.room
    repaired = repair(room.bob, room.room_id)
    braked.hold(1, UNDO)
    path = "/v1/repairs" + quoted(repaired["repair_id"], "undo")
    judge = Judge(Contract(), room.bob)
    begun = judge.ok("POST", path, {"dry_run": False})["repair_id"]
    wait_for(lambda: progress(room.bob, begun)["status"] == "active")
    said = judge.refused(409, "M_CONFLICT", "POST", "/v1/repairs" + quoted(begun, "cancel"))
    assert "to its end" in said
    braked.release()
    assert finished(room.bob, begun)["status"] == "complete"
    assert room.b.rejected(room.room_id) == {*incident.lost}


def test_not_once_something_builds_on_it(braked: Braked) -> None:
    incident = make_incident(braked.pair.room("11"))
    room = incident.room
    repaired = repair(room.bob, room.room_id)
    ours = room.bob.send_message(room.room_id, "On top of it")
    theirs = room.alice.send_message(room.room_id, "And on top of that")
    everywhere(room, ours, theirs)
    answer = refused(room.bob, repaired["repair_id"])
    # What cites the power levels builds on them, as does what follows the last event.
    assert sorted(answer["events"]) == sorted([ours, theirs])
    assert_whole(room)


def test_not_once_something_builds_on_a_state_that_was_mended(braked: Braked) -> None:
    room = braked.pair.room("11")
    lose_state(room, "m.room.topic", {"topic": "Lost"})
    everywhere(room, room.alice.send_message(room.room_id, "Without the topic, here"))
    repaired = repair(room.bob, room.room_id)
    ours = room.bob.send_message(room.room_id, "With it")
    everywhere(room, ours)
    # It neither follows nor cites what was received, but its state holds that.
    assert refused(room.bob, repaired["repair_id"])["events"] == [ours]
    assert_whole(room)


def repaired_with_unused_states(room: Room) -> tuple[str, set[int]]:
    """Damages and repairs a room; gives the repair, and the state groups that it left unused."""
    states = (
        "SELECT state_group FROM event_to_state_groups JOIN events USING (event_id)"
        " WHERE room_id = ?"
    )
    make_damage(room, 40)
    before = room.b.database.query(states, room.room_id)
    repaired = repair(room.bob, room.room_id)
    unused = {*before} - {*room.b.database.query(states, room.room_id)}
    assert unused
    return repaired["repair_id"], {group for (group,) in unused}


def test_not_once_the_old_states_are_gone(braked: Braked) -> None:
    room = braked.pair.room("11")
    repair_id, unused = repaired_with_unused_states(room)
    for group in unused:
        room.b.database.execute("DELETE FROM state_groups WHERE id = ?", group)
    answer = refused(room.bob, repair_id)
    assert "are no longer stored" in answer["error"]
    assert_whole(room)


def test_not_if_the_old_states_go_while_it_begins(braked: Braked) -> None:
    room = braked.pair.room("11")
    repair_id, unused = repaired_with_unused_states(room)
    # The plan is made by then.
    braked.hold(1, SAVE)
    job_id = undo(room.bob, repair_id, dry_run=False)["repair_id"]
    held = "SELECT status FROM rejection_repair_jobs WHERE job_id = ?"
    wait_for(lambda: room.b.database.value(held, job_id) == "active", what="the undo to begin")
    for group in unused:
        room.b.database.execute("DELETE FROM state_groups WHERE id = ?", group)
    braked.release()
    job = finished(room.bob, job_id)
    assert job["status"] == "failed" and "are no longer stored" in job["error"], job
    assert_whole(room)


def test_states_that_are_to_be_deleted_are_kept(braked: Braked) -> None:
    room = braked.pair.room("11")
    repair_id, unused = repaired_with_unused_states(room)
    room.b.database.execute_many(
        "INSERT INTO state_groups_pending_deletion (state_group, insertion_ts) VALUES (?, 1)",
        [(group,) for group in unused],
    )
    undone(room.bob, repair_id)
    # Synapse would delete what is older than some minutes.
    pending = "SELECT state_group FROM state_groups_pending_deletion WHERE insertion_ts = 1"
    assert unused.isdisjoint(group for (group,) in room.b.database.query(pending))


def purge(room: Room, event_id: str) -> None:
    """Purges a room's history before an event, as admins do."""
    path = "/v1/purge_history" + quoted(room.room_id, event_id)
    purge_id = room.bob.admin("POST", path, delete_local_events=True)["purge_id"]
    status = "/v1/purge_history_status" + quoted(purge_id)
    wait_for(lambda: room.bob.admin("GET", status)["status"] == "complete", what="the purge")


def test_not_once_its_events_were_purged(braked: Braked) -> None:
    incident = make_incident(braked.pair.room("11"))
    room = incident.room
    repaired = repair(room.bob, room.room_id)
    purge(room, incident.late_message)
    purged = {*incident.lost} - {incident.late_message}
    answer = refused(room.bob, repaired["repair_id"])
    assert "no longer stored" in answer["error"]
    # Of state events an outlier is left.
    assert purged - {*answer["events"]} == set()
    assert room.b.rejected(room.room_id) == set()
    assert compare.inconsistencies(room.b, room.room_id) == {}


def test_not_once_all_that_it_follows_was_purged(braked: Braked) -> None:
    room = braked.pair.room("11")
    room.b.sabotage(type="m.room.message", room_id=room.room_id)
    lost = room.alice.send_message(room.room_id, "Lost")
    room.b.wait_for_event(lost)
    room.b.sabotage_off()
    repaired = repair(room.bob, room.room_id)
    purge(room, lost)
    assert "left without" in refused(room.bob, repaired["repair_id"])["error"]
    assert compare.extremities(room.b, room.room_id) == {lost}


def test_not_once_its_journal_is_gone(braked: Braked) -> None:
    incident = make_incident(braked.pair.room("11"))
    room = incident.room
    repaired = repair(room.bob, room.room_id)
    (kept, _) = room.b.database.query(
        "SELECT event_id FROM rejection_repair_journal WHERE job_id = ? LIMIT 2",
        repaired["repair_id"],
    )
    delete = "DELETE FROM rejection_repair_journal WHERE job_id = ?"
    room.b.database.execute(f"{delete} AND event_id <> ?", repaired["repair_id"], *kept)
    assert "deleted from the journal" in refused(room.bob, repaired["repair_id"])["error"]
    room.b.database.execute(delete, repaired["repair_id"])
    assert "deleted from the journal" in refused(room.bob, repaired["repair_id"])["error"]
    assert_whole(room)


def test_what_cannot_be_undone(braked: Braked) -> None:
    user = braked.pair.b.register("undoer", admin=True)
    for repair_id in ("none", "!", "%00"):
        with pytest.raises(MatrixError) as error:
            user.repair_api("POST", f"/repairs/{repair_id}/undo", {})
        assert error.value.status in (400, 404)
    room = braked.pair.room("11")
    idle = repair(room.bob, room.room_id)
    assert undo(room.bob, idle["repair_id"])["events"] == []
    assert undone(room.bob, idle["repair_id"])["done"] == 0
    bodies: tuple[dict[str, Any], ...] = ({"dryrun": False}, {"dry_run": "no"}, {"force": []})
    for body in bodies:
        with pytest.raises(MatrixError) as error:
            room.bob.repair_api("POST", "/repairs" + quoted(idle["repair_id"], "undo"), body)
        assert (error.value.status, error.value.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("braked", "transaction", "nth", "moment"),
    [
        pytest.param(Flavour(), UNDO, 1, "before"),
        pytest.param(Flavour(), UNDO, 1, "after"),
        pytest.param(Flavour(), UNDO, 2, "before"),
        pytest.param(Flavour(), BUMP, 1, "before"),
        pytest.param(Flavour(), CURRENT_STATE, 1, "before"),
        pytest.param(Flavour(), STATISTICS, 1, "before"),
        pytest.param(Flavour(), STATISTICS, 1, "after"),
        pytest.param(Flavour(database="postgres"), UNDO, 1, "after", marks=pytest.mark.postgres),
    ],
    indirect=["braked"],
)
def test_a_killed_undo_goes_on_by_itself(
    braked: Braked, transaction: str, nth: int, moment: str
) -> None:
    room = braked.pair.room("11")
    damage = make_damage(room, LENGTH)
    before = facts(room)
    repaired = repair(room.bob, room.room_id)
    # Synapse counts what was repaired before it counts what is undone.
    derived(room)
    braked.kill_in(transaction, nth, moment)
    room.bob.repair_api(
        "POST", "/repairs" + quoted(repaired["repair_id"], "undo"), {"dry_run": False}
    )
    braked.wait_dead()
    braked.release()
    left = room.b.rejected(room.room_id)
    if transaction == UNDO:
        assert bool(left) is ((nth, moment) != (1, "before"))
        assert left < damage.lost, "it was over already"
    else:
        assert left == damage.lost, "all was to be put back by then"
    assert compare.extremities(room.b, room.room_id), "a room must never be without any"
    room.b.start()
    (job,) = (
        job
        for job in room.bob.repair_api("GET", "/repairs", params={"room_id": room.room_id})[
            "repairs"
        ]
        if job["undoes"]
    )
    job = finished(room.bob, job["repair_id"])
    assert (job["status"], job["done"]) == ("complete", job["total"]), job
    assert_same(before, facts(room))
    assert progress(room.bob, repaired["repair_id"])["status"] == "complete"
