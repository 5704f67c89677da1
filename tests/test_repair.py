"""The incident on two real servers: after the repair, B is as if it had never erred.

One story per combination of Synapse, database and room version is told once; every test then
asks one thing about it. None of them takes anything away from what the others ask for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness import compare, flavours
from tests.harness.client import JsonDict, MatrixError
from tests.harness.compare import differences, search
from tests.harness.federation import Pair, Room
from tests.harness.hostile import HostilePeer
from tests.harness.incident import Incident, make_incident, promote
from tests.harness.repairing import diagnosis, dry_run, finished, health, repair, start
from tests.harness.syncing import SyncedRoom, Waiting, sliding_sync
from tests.harness.waiting import wait_for

pytestmark = pytest.mark.parametrize("pair", flavours.ALL, indirect=True)


@dataclass
class Story:
    """One incident, looked at before, repaired, and left for the tests to look at."""

    room: Room
    incident: Incident
    differed: dict[str, str]
    """In what B differed from A before."""
    diagnosis: JsonDict
    sick: dict[str, int]
    """What `health` found before."""
    written_by_dry_run: dict[str, Any]
    plan: JsonDict
    original_rows: dict[str, dict[str, Any]]
    """The rejected events' rows in `events` and `rejections` before."""
    state_before: dict[tuple[str, str], str]
    """B's current state before, ..."""
    state_after: dict[tuple[str, str], str]
    """... and A's, which is to be B's."""
    outcome: JsonDict
    all_along: SyncedRoom
    """A client that synced once before X, and then again after the repair."""
    in_short: SyncedRoom
    """One like it, whose timeline has room for one event alone."""
    waited: SyncedRoom
    """A client that hung in `/sync` when the repair began."""
    told_by_sliding_sync: JsonDict


@pytest.fixture(scope="module", params=["10", "12"])
def story(pair: Pair, request: pytest.FixtureRequest) -> Iterator[Story]:
    room = pair.room(request.param)
    r, bob = room.room_id, room.bob
    position, _ = sliding_sync(bob, r)
    incident = make_incident(room)

    before = _settled_digests(pair)
    plan = dry_run(bob, r)
    sick = health(bob, r)
    told = diagnosis(bob, r)
    written = {
        name: (before.get(name), now)
        for name, now in compare.digests(pair.b).items()
        if before.get(name) != now
    }
    position, _ = sliding_sync(bob, r, position)
    differed = differences(room)
    rows = _rows(room, incident.lost)
    state = compare.current_state(pair.b, r)

    now = bob.sync()
    with ExitStack() as stack:
        client = stack.enter_context(Waiting(bob, r, now["next_batch"]))
        client.room.state = dict(state)
        outcome = finished(bob, start(bob, r, plan=plan["fingerprint"]))
        client.wait_for({*incident.lost})

    all_along, in_short = SyncedRoom(r), SyncedRoom(r)
    all_along.state = dict(state)
    in_short.state = dict(state)
    all_along.apply(bob.sync(incident.since))
    in_short.apply(bob.sync(incident.since, filter={"room": {"timeline": {"limit": 1}}}))
    _, sliding = sliding_sync(bob, r, position)
    yield Story(
        room,
        incident,
        differed,
        told,
        sick,
        written,
        plan,
        rows,
        state,
        compare.current_state(pair.a, r),
        outcome,
        all_along,
        in_short,
        client.room,
        sliding,
    )


def _settled_digests(pair: Pair) -> dict[str, str]:
    """Sums up B's tables once nothing changes them any more."""
    wait_for(lambda: _caught_up(pair), 60, what="B to be done with what it does by itself")
    last: list[dict[str, str]] = [{}]

    def settled() -> dict[str, str]:
        last.append(compare.digests(pair.b))
        return last[-1] if last[-1] == last[-2] else {}

    return wait_for(settled, interval=0.3, what="B to have nothing more to write")


def _caught_up(pair: Pair) -> bool:
    if pair.b.database.query("SELECT 1 FROM background_updates"):
        return False
    newest = "SELECT MAX(stream_id) FROM current_state_delta_stream"
    positions = ("stats_incremental_position", "user_directory_stream_pos")
    return all(
        pair.b.database.value(f"SELECT stream_id FROM {table}") >= pair.b.database.value(newest)
        for table in positions
    )


def _rows(room: Room, event_ids: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for event_id in event_ids:
        (event,) = room.b.database.query(
            "SELECT stream_ordering, type, sender, depth FROM events WHERE event_id = ?", event_id
        )
        (text,) = room.b.database.query("SELECT json FROM event_json WHERE event_id = ?", event_id)
        group = room.b.database.value(
            "SELECT state_group FROM event_to_state_groups WHERE event_id = ?", event_id
        )
        found[event_id] = {
            "event": event,
            "json": text[0],
            "group": group,
            "reason": room.b.database.value(
                "SELECT reason FROM rejections WHERE event_id = ?", event_id
            ),
        }
    return found


# Before.


def test_the_room_was_broken(story: Story) -> None:
    # A comparison that finds nothing to begin with would prove nothing in the end.
    assert story.differed.keys() >= {
        "edges",
        "memberships",
        "relations",
        "redactions",
        "search rows",
        "current state",
        "extremities",
        "threads",
        "rejected",
        "state after each event",
        "scrollback",
        "order of the scrollback",
        "events as shown",
        "state for users",
        "members",
        "relations of each event",
        "list of threads",
    }


def test_diagnosis(story: Story) -> None:
    incident, room = story.incident, story.room
    found = story.diagnosis
    assert found["rejected_events"] == len(incident.lost)
    (root,) = found["roots"]
    assert (root["event_id"], root["type"], root["state_key"], root["sender"]) == (
        *(incident.x, "m.room.power_levels", "", room.alice.user_id),
    )
    assert (root["verdict"], root["check"], root["error"]) == ("accept", None, None)
    times = {
        event_id: ts
        for event_id, ts in room.a.database.query(
            "SELECT event_id, origin_server_ts FROM events WHERE room_id = ?", room.room_id
        )
    }
    behind = [times[event_id] for event_id in incident.lost[1:]]
    assert root["origin_server_ts"] == times[incident.x]
    assert root["cascade"] == {
        "count": len(behind),
        "first_ts": min(behind),
        "last_ts": max(behind),
        "servers": {room.a.name: len(behind)},
    }
    assert found["still_flowing"] == [room.b.name]


def test_health_found_what_was_wrong(story: Story) -> None:
    assert story.sick == {"wrongly_rejected": len(story.incident.lost)}


# The dry run.


def test_the_dry_run_wrote_nothing(story: Story) -> None:
    assert story.written_by_dry_run == {}


def test_the_dry_run_foretold_what_was_accepted_and_rejected(story: Story) -> None:
    plan, outcome, lost = story.plan, story.outcome, story.incident.lost
    assert plan["dry_run"] is True
    assert plan["summary"]["accept"] == outcome["accepted"] == len(lost)
    assert plan["summary"]["reject"] == outcome["rejected"] == 0
    assert outcome["total"] == outcome["done"] == plan["events_total"] == len(lost)
    assert [event["event_id"] for event in plan["events"]] == lost
    assert {event["verdict"] for event in plan["events"]} == {"accept"}
    assert {event["error"] for event in plan["events"]} == {None}
    assert not any(event["soft_failed"] for event in plan["events"])


def test_the_dry_run_foretold_the_change_of_the_state(story: Story) -> None:
    incident, before = story.incident, story.state_before
    after = {
        ("m.room.power_levels", ""): incident.x,
        ("m.room.topic", ""): incident.topic,
        ("m.room.member", incident.late.user_id): incident.join,
    }
    foretold = story.plan["summary"]["state_changes"]
    changes = {(c["type"], c["state_key"]): (c["from"], c["to"]) for c in foretold}
    assert changes == {key: (before.get(key), event_id) for key, event_id in after.items()}
    assert story.outcome["state_changes"] == foretold


# The run.


def test_the_run_is_complete(story: Story) -> None:
    outcome = story.outcome
    assert (outcome["status"], outcome["error"]) == ("complete", None)
    assert outcome["room_id"] == story.room.room_id
    assert outcome["created_ts"] <= outcome["started_ts"] <= outcome["finished_ts"]
    listed = story.room.bob.repair_api("GET", "/repairs", params={"room_id": story.room.room_id})
    assert outcome in listed["repairs"]


def test_no_mark_of_rejection_is_left(story: Story) -> None:
    r, database = story.room.room_id, story.room.b.database
    assert story.room.b.rejected(r) == set()
    sql = "SELECT event_id FROM events WHERE room_id = ? AND rejection_reason IS NOT NULL"
    assert database.query(sql, r) == []
    marks = ",".join("?" for _ in story.incident.lost)
    sql = f"SELECT event_id FROM rejections WHERE event_id IN ({marks})"
    assert database.query(sql, *story.incident.lost) == []


def test_nothing_differs(story: Story) -> None:
    assert differences(story.room) == {}


def test_prev_edges(story: Story) -> None:
    right = compare.edges(story.room.a, story.room.room_id)
    other = compare.edges(story.room.b, story.room.room_id)
    assert {i: right[i] for i in story.incident.lost} == {
        i: other.get(i) for i in story.incident.lost
    }


def test_scrollback(story: Story) -> None:
    on_b = [event["event_id"] for event in story.room.bob.messages(story.room.room_id)]
    assert {*on_b} >= {*story.incident.lost, *story.incident.kept}
    assert len(on_b) == len({*on_b})


def test_state_and_members(story: Story) -> None:
    room, incident = story.room, story.incident
    state = room.bob.state(room.room_id)
    assert state[("m.room.power_levels", "")]["event_id"] == incident.x
    assert incident.late.user_id in room.bob.members(room.room_id)
    assert compare.current_state(room.a, room.room_id) == compare.current_state(
        room.b, room.room_id
    )


def test_search(story: Story) -> None:
    room, incident = story.room, story.incident
    found = search(room.bob, room.room_id, incident.WORD)
    assert found >= {*incident.messages, incident.late_message, *incident.thread_replies}
    assert found == search(room.alice, room.room_id, incident.WORD)
    # The words of what was redacted find nothing.
    assert incident.redacted not in found


def test_threads_edits_and_reactions(story: Story) -> None:
    room, incident = story.room, story.incident
    r, bob = room.room_id, room.bob

    def relations(event_id: str, *filters: str) -> set[str]:
        return {event["event_id"] for event in bob.relations(r, event_id, *filters)}

    assert relations(incident.thread_root, "m.thread") == {*incident.thread_replies}
    assert relations(incident.edited, "m.replace") == {incident.edit}
    assert relations(incident.reacted, "m.annotation") == {incident.reaction}
    assert relations(incident.early_message, "m.replace") == {incident.early_edit}
    assert relations(incident.early_message, "m.annotation") == {incident.early_reaction}

    thread = bob.event(r, incident.thread_root)["unsigned"]["m.relations"]["m.thread"]
    assert thread["count"] == 2
    assert thread["latest_event"]["event_id"] == incident.thread_replies[-1]
    for event_id, edit in (
        (incident.edited, incident.edit),
        (incident.early_message, incident.early_edit),
    ):
        bundled = bob.event(r, event_id)["unsigned"]["m.relations"]["m.replace"]
        assert bundled["event_id"] == edit


def test_redactions(story: Story) -> None:
    room, incident = story.room, story.incident
    for event_id, redaction in (
        (incident.redacted, incident.redaction),
        (incident.early_doomed, incident.early_redaction),
    ):
        shown = room.bob.event(room.room_id, event_id)
        assert shown["content"] == {}
        assert shown["unsigned"]["redacted_because"]["event_id"] == redaction
    assert "To be redacted" not in json.dumps(room.bob.messages(room.room_id))


# What clients are told.


def test_a_client_that_synced_all_along(story: Story) -> None:
    client, incident = story.all_along, story.incident
    assert not client.limited
    assert {*client.timeline} == {*incident.lost, *incident.kept}
    assert len(client.timeline) == len({*client.timeline})
    # In the order in which they were sent.
    assert [i for i in client.timeline if i in incident.lost] == incident.lost
    assert client.state == story.state_after
    assert incident.late.user_id in client.device_lists


def test_a_client_with_a_short_timeline(story: Story) -> None:
    client = story.in_short
    assert client.limited
    assert len(client.timeline) == 1
    assert client.state == story.state_after


def test_a_client_that_was_waiting(story: Story) -> None:
    client, incident = story.waited, story.incident
    assert not client.limited
    assert [i for i in client.timeline if i in incident.lost] == incident.lost
    assert len(client.timeline) == len({*client.timeline})
    assert client.state == story.state_after


def test_sliding_sync(story: Story) -> None:
    told, incident = story.told_by_sliding_sync, story.incident
    state = {event["event_id"] for event in told["required_state"]}
    assert state >= {incident.x, incident.topic, incident.join}
    timeline = [event["event_id"] for event in told["timeline"]]
    assert [i for i in timeline if i in incident.lost] == incident.lost
    # A new connection sees the same room as everybody.
    _, whole = sliding_sync(story.room.carol, story.room.room_id)
    on_b = {event["event_id"] for event in whole["required_state"]}
    assert on_b == {*compare.current_state(story.room.a, story.room.room_id).values()}


def test_the_directory_of_users_and_the_statistics(story: Story) -> None:
    room, incident = story.room, story.incident

    def known() -> bool:
        answer = room.bob.call(
            "POST",
            "/_matrix/client/v3/user_directory/search",
            {"search_term": incident.late.user_id},
        )
        return incident.late.user_id in {user["user_id"] for user in answer["results"]}

    wait_for(known, what="B's directory to know who joined")

    def same() -> bool:
        sql = (
            "SELECT c.joined_members, c.current_state_events, s.topic FROM room_stats_current AS c"
            " JOIN room_stats_state AS s ON s.room_id = c.room_id WHERE c.room_id = ?"
        )
        on_a, on_b = (s.database.query(sql, room.room_id) for s in (room.a, room.b))
        return on_a == on_b

    wait_for(same, what="B's statistics to be A's")


# Afterwards.


def test_new_events_flow_both_ways(story: Story) -> None:
    room = story.room
    there = room.alice.send_message(room.room_id, "Can you hear me?")
    room.b.wait_for_event(there)
    back = room.bob.send_message(room.room_id, "I can")
    room.a.wait_for_event(back)
    again = room.alice.send_state(room.room_id, "m.room.name", {"name": "Whole"})
    room.b.wait_for_event(again)
    assert room.b.rejected(room.room_id) == room.a.rejected(room.room_id) == set()
    assert differences(room) == {}


def test_the_promoted_moderator_can_act(story: Story) -> None:
    room = story.room
    r = room.room_id
    guest = room.a.register(f"guest{r[1:6]}".lower())
    guest.join(r)
    wait_for(lambda: guest.user_id in room.bob.members(r), what="B to see the guest")
    topic = room.carol.send_state(r, "m.room.topic", {"topic": f"Carol's {r}"})
    room.carol.kick(r, guest.user_id, "For the test")
    room.a.wait_for_event(topic)
    wait_for(lambda: guest.user_id not in room.alice.members(r), what="A to see the kick")
    assert room.alice.get_state(r, "m.room.topic")["topic"] == f"Carol's {r}"
    assert room.a.rejected(r) == set()
    assert compare.soft_failed(room.a, r) == set()
    # The next change by A does not start another cascade.
    again = promote(room, room.bob, 50)
    room.b.wait_for_event(again)
    assert room.b.rejected(r) == set()
    assert differences(room) == {}


def test_the_next_event_builds_on_what_was_repaired(story: Story) -> None:
    room, incident = story.room, story.incident
    r = room.room_id
    tips = compare.extremities(room.a, r)
    assert compare.extremities(room.b, r) == tips
    event_id = room.bob.send_message(r, "Next")
    room.a.wait_for_event(event_id)
    (text,) = room.a.database.query("SELECT json FROM event_json WHERE event_id = ?", event_id)
    event = json.loads(text[0])
    assert {*event["prev_events"]} == tips
    power = compare.current_state(room.a, r)[("m.room.power_levels", "")]
    assert power in event["auth_events"]
    chain = {power}
    auth: dict[str, set[str]] = {}
    for child, parent in room.b.database.query(
        "SELECT event_id, auth_id FROM event_auth WHERE room_id = ?", r
    ):
        auth.setdefault(child, set()).add(parent)
    while more := set().union(*(auth.get(i, set()) for i in chain)) - chain:
        chain |= more
    assert incident.x in chain
    assert differences(room) == {}


def test_other_servers_are_given_the_right_state(story: Story) -> None:
    # Through the running server's caches, not out of its database.
    room, incident = story.room, story.incident
    r, shared = room.room_id, compare.shared_events(room)
    assert shared >= {*incident.messages, *incident.kept, incident.late_message}
    given = HostilePeer(room.a, r).states_given(room.b, shared)
    assert given == HostilePeer(room.b, r).states_given(room.a, shared)


def test_the_fingerprint_is_void_after_a_further_rejection(story: Story) -> None:
    # In a room of its own: this one is to stay whole.
    room = story.room
    other = Pair(room.a, room.b).room(room.version)
    r = other.room_id
    make_lost(other, "m.room.topic", {"topic": "One"})
    plan = dry_run(other.bob, r)
    # Messages do not matter to it.
    other.b.wait_for_event(other.alice.send_message(r, "Between"))
    assert dry_run(other.bob, r, plan=plan["fingerprint"])["fingerprint"] == plan["fingerprint"]
    make_lost(other, "m.room.name", {"name": "Two"})
    for body in ({"dry_run": True}, {"dry_run": False}):
        with pytest.raises(MatrixError) as refused:
            dry_run(other.bob, r, plan=plan["fingerprint"], **body)
        assert refused.value.status == 409
        assert refused.value.errcode and refused.value.error
    # Where something else is chosen it is void as well; how clients are told was not seen in it.
    fresh = dry_run(other.bob, r)
    with pytest.raises(MatrixError) as refused:
        one = [fresh["events"][0]["event_id"]]
        dry_run(other.bob, r, plan=fresh["fingerprint"], event_ids=one)
    assert refused.value.status == 409
    done = repair(other.bob, r, plan=fresh["fingerprint"], deliver="history")
    assert done["accepted"] == 2
    assert differences(other) == {}


def make_lost(room: Room, type: str, content: JsonDict, state_key: str = "") -> str:
    """Makes B reject a state event of alice's, and returns its id."""
    room.b.sabotage(type=type, room_id=room.room_id)
    event_id = room.alice.send_state(room.room_id, type, content, state_key)
    room.b.wait_for_event(event_id)
    room.b.sabotage_off()
    assert event_id in room.b.rejected(room.room_id)
    return event_id


def test_a_second_run_does_nothing(story: Story) -> None:
    room = story.room
    plan = dry_run(room.bob, room.room_id)
    assert (plan["summary"], plan["events"]) == (
        {"accept": 0, "reject": 0, "let_through": 0, "gaps": 0, "restate": 0, "state_changes": []},
        [],
    )
    before = compare.database_facets(room, room.b)
    orderings = "SELECT event_id, stream_ordering FROM events WHERE room_id = ?"
    stored = sorted(room.b.database.query(orderings, room.room_id))
    again = repair(room.bob, room.room_id)
    assert (again["accepted"], again["rejected"], again["total"]) == (0, 0, 0)
    assert again["state_changes"] == []
    assert compare.database_facets(room, room.b) == before
    assert sorted(room.b.database.query(orderings, room.room_id)) == stored


def test_the_journal_keeps_the_original_rows(story: Story) -> None:
    rows = story.room.b.database.query(
        "SELECT event_id, action, original_rows FROM rejection_repair_journal WHERE job_id = ?",
        story.outcome["repair_id"],
    )
    journal = {event_id: json.loads(text) for event_id, action, text in rows if action == "receive"}
    assert journal.keys() == {*story.incident.lost}
    for event_id, was in story.original_rows.items():
        found = journal[event_id]
        (event,) = found["events"]
        assert (
            tuple(event[c] for c in ("stream_ordering", "type", "sender", "depth")) == was["event"]
        )
        (text,) = found["event_json"]
        assert text["json"] == was["json"]
        (rejection,) = found["rejections"]
        assert rejection["reason"] == was["reason"]
        (group,) = found["event_to_state_groups"]
        assert group["state_group"] == was["group"]


def test_health_is_good(story: Story) -> None:
    assert health(story.room.bob, story.room.room_id) == {}
    assert diagnosis(story.room.bob, story.room.room_id) == {
        "rejected_events": 0,
        "roots": [],
        "roots_total": 0,
        "still_flowing": [],
        "soft_failed_events": 0,
        "soft_failed": [],
    }


def test_a_restart_changes_nothing(story: Story) -> None:
    room = story.room
    before = compare.database_facets(room, room.b), compare.api_facets(room, room.bob)
    room.b.restart()
    assert health(room.bob, room.room_id) == {}
    assert (compare.database_facets(room, room.b), compare.api_facets(room, room.bob)) == before
    assert differences(room) == {}


def test_no_error_is_in_the_log(story: Story) -> None:
    assert story.room.b.errors_in_log() == []
    assert story.room.a.errors_in_log() == []
