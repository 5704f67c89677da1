"""What else can be lost, and found again: one room for each story, on the newest and the oldest."""

from __future__ import annotations

import copy
import json

import pytest

from tests.harness import compare, flavours
from tests.harness.client import Client, MatrixError, quoted
from tests.harness.compare import differences, search
from tests.harness.federation import Pair, Room
from tests.harness.forging import Forger
from tests.harness.hostile import HostilePeer
from tests.harness.incident import make_incident, promote
from tests.harness.losing import (
    everywhere,
    lose,
    lose_membership,
    lose_message,
    lose_state,
)
from tests.harness.repairing import diagnosis, dry_run, health, repair
from tests.harness.syncing import SyncedRoom
from tests.harness.waiting import wait_for

pytestmark = pytest.mark.parametrize("pair", [flavours.NEWEST, flavours.SLOW_OLDEST], indirect=True)


@pytest.fixture(params=["10", "12"])
def room(pair: Pair, request: pytest.FixtureRequest) -> Room:
    return pair.room(request.param)


def no_errors(room: Room) -> None:
    assert room.a.errors_in_log() == []
    assert room.b.errors_in_log() == []


def synced(user: Client, room: Room) -> tuple[SyncedRoom, str]:
    """A client that knows the room as it is now, and its token."""
    client = SyncedRoom(room.room_id)
    answer = user.sync()
    client.apply(answer)
    return client, answer["next_batch"]


@pytest.mark.parametrize("version", ["1", "3", "6", "9", "11"])
def test_other_room_versions(pair: Pair, version: str) -> None:
    room = pair.room(version)
    incident = make_incident(room, messages=1)
    assert health(room.bob, room.room_id) == {"wrongly_rejected": len(incident.lost)}
    done = repair(room.bob, room.room_id)
    assert (done["accepted"], done["rejected"]) == (len(incident.lost), 0)
    assert differences(room) == {}
    assert health(room.bob, room.room_id) == {}
    no_errors(room)


# How clients are told.


def test_deliver_history(room: Room) -> None:
    r, bob = room.room_id, room.bob
    incident = make_incident(room, messages=2)
    plan = dry_run(bob, r, deliver="history")
    live = dry_run(bob, r)
    assert plan["summary"] == live["summary"]
    assert plan["fingerprint"] == live["fingerprint"]

    client, since = synced(bob, room)
    done = repair(bob, r, deliver="history", plan=plan["fingerprint"])
    assert done["accepted"] == len(incident.lost)
    client.timeline.clear()
    client.apply(bob.sync(since))
    # The state, and the newest events; the rest is there to scroll back to.
    assert client.state == compare.current_state(room.a, r)
    tips = compare.extremities(room.a, r) & {*incident.lost}
    assert tips <= {*client.timeline}
    messages = {*incident.messages, incident.edited, incident.reacted, *incident.thread_replies}
    assert not {*client.timeline} & (messages - tips)

    assert differences(room) == {}
    assert search(bob, r, incident.WORD) == search(room.alice, r, incident.WORD)
    assert health(bob, r) == {}
    no_errors(room)


def test_an_older_state_event_does_not_undo_what_clients_know(room: Room) -> None:
    r = room.room_id
    everywhere(room, promote(room, room.bob, 50))
    client, since = synced(room.bob, room)
    lost = lose_state(room, "m.room.topic", {"topic": "Alice's, lost"})
    newer = room.bob.send_state(r, "m.room.topic", {"topic": "Bob's, newer"})
    # Alice's next event settles what the topic is, for both.
    merge = room.alice.send_message(r, "So it is")
    everywhere(room, newer, merge)
    winner = compare.current_state(room.a, r)[("m.room.topic", "")]
    client.apply(room.bob.sync(since))
    since = room.bob.sync()["next_batch"]

    plan = dry_run(room.bob, r)
    assert [e["event_id"] for e in plan["events"]] == [lost]
    repair(room.bob, r)
    client.apply(room.bob.sync(since))
    assert client.state[("m.room.topic", "")] == winner
    assert client.state == compare.current_state(room.b, r)
    assert differences(room) == {}
    no_errors(room)


def test_what_went_on_meanwhile_is_not_taken_back(room: Room) -> None:
    # B's users went on: one leaves, one changes name, and alice's server agrees to all of it.
    r, bob, carol = room.room_id, room.bob, room.carol
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    message = lose_message(room, "Lost as well")
    carol.leave(r)
    named = bob.send_state(
        r, "m.room.member", {"membership": "join", "displayname": "Bobby"}, bob.user_id
    )
    everywhere(room, named)
    wait_for(lambda: carol.user_id not in room.alice.members(r), what="A to see carol leave")
    merge = room.alice.send_message(r, "All together now")
    everywhere(room, merge)
    client, since = synced(bob, room)
    repair(bob, r)
    client.timeline.clear()
    client.apply(bob.sync(since))
    # Synapse's /sync may repeat older entries before events that come so late: what holds is
    # what the server says of the room, and what the client is told of the lost events.
    assert {*client.timeline} >= {topic, message}
    assert client.state[("m.room.topic", "")] == topic
    assert bob.members(r, membership=None)[carol.user_id] == "leave"
    assert differences(room) == {}


def test_other_rooms_are_left_alone(room: Room, pair: Pair) -> None:
    other = pair.room(room.version)
    before = compare.database_facets(other, other.b), compare.api_facets(other, other.bob)
    positions = "SELECT event_id, stream_ordering FROM events WHERE room_id = ?"
    stored = other.b.database.query(positions, other.room_id)
    make_incident(room, messages=1)
    repair(room.bob, room.room_id)
    assert (
        compare.database_facets(other, other.b),
        compare.api_facets(other, other.bob),
    ) == before
    assert other.b.database.query(positions, other.room_id) == stored


# What can be lost.


def test_a_message_that_nobody_cites(room: Room) -> None:
    r = room.room_id
    before = room.alice.send_message(r, "Before")
    lost = lose_message(room, "Lost")
    after = room.alice.send_message(r, "After")
    everywhere(room, before, after)
    # A gap in the middle of what was accepted.
    assert room.b.rejected(r) == {lost}
    assert diagnosis(room.bob, r)["roots"][0]["cascade"]["count"] == 0
    plan = dry_run(room.bob, r)
    assert plan["summary"] == {
        "accept": 1,
        "reject": 0,
        "let_through": 0,
        "gaps": 0,
        "restate": 0,
        "state_changes": [],
    }
    repair(room.bob, r)
    assert [e["event_id"] for e in room.bob.messages(r)][:3] == [after, lost, before]
    assert differences(room) == {}
    no_errors(room)


def test_spam_that_was_lost_stays_hidden(room: Room) -> None:
    incident = make_incident(room)
    r, spam = room.room_id, incident.messages[-1]
    room.b.stop()
    # As Synapse marks what a policy server takes for spam, before it rejects it.
    metadata = "SELECT internal_metadata FROM event_json WHERE event_id = ?"
    marks = json.loads(room.b.database.value(metadata, spam))
    room.b.database.execute(
        "UPDATE event_json SET internal_metadata = ? WHERE event_id = ?",
        *(json.dumps({**marks, "soft_failed": True, "policy_server_spammy": True}), spam),
    )
    room.b.start()
    hidden = [e["event_id"] for e in dry_run(room.bob, r)["events"] if e["soft_failed"]]
    assert hidden == [spam]
    repair(room.bob, r)
    assert room.b.rejected(r) == set()
    assert spam not in [e["event_id"] for e in room.bob.messages(r)]
    marks = json.loads(room.b.database.value(metadata, spam))
    assert (marks["soft_failed"], marks["policy_server_spammy"]) == (True, True)
    # Nor does another repair let it through.
    assert dry_run(room.bob, r)["events"] == []
    no_errors(room)


def test_a_message_at_the_tip(room: Room) -> None:
    lost = lose_message(room, "Lost")
    assert compare.extremities(room.b, room.room_id) != {lost}
    repair(room.bob, room.room_id)
    assert compare.extremities(room.b, room.room_id) == {lost}
    assert differences(room) == {}


def test_state_that_nobody_cites(room: Room) -> None:
    r, bob = room.room_id, room.bob
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    first = room.alice.send_message(r, "First")
    everywhere(room, first)
    answer = bob.send_message(r, "An answer")
    everywhere(room, answer)
    name = room.alice.send_state(r, "m.room.name", {"name": "Not lost"})
    last = room.alice.send_message(r, "Last")
    everywhere(room, name, last)
    assert room.b.rejected(r) == {topic}
    # All that was accepted after it has the wrong state, and so has the room.
    right = compare.states_after(room.a, r)
    wrong = compare.states_after(room.b, r)
    stale = {i for i in (first, answer, name, last) if right[i] != wrong[i]}
    assert stale == {first, answer, name, last}
    assert health(bob, r).keys() >= {"wrongly_rejected"}

    client, since = synced(bob, room)
    plan = dry_run(bob, r)
    assert plan["summary"]["accept"] == 1
    assert plan["summary"]["restate"] == len(stale)
    (change,) = plan["summary"]["state_changes"]
    assert (change["type"], change["to"]) == ("m.room.topic", topic)
    done = repair(bob, r)
    assert done["state_changes"] == plan["summary"]["state_changes"]
    assert compare.states_after(room.b, r).items() >= {i: right[i] for i in stale}.items()
    client.apply(bob.sync(since))
    assert client.state[("m.room.topic", "")] == topic
    assert bob.get_state(r, "m.room.topic") == {"topic": "Lost"}
    assert bob.get_state(r, "m.room.name") == {"name": "Not lost"}
    assert differences(room) == {}

    # What comes next builds on the state as it is now, with no restart between.
    everywhere(room, room.bob.send_message(r, "Next"), room.alice.send_message(r, "And next"))
    assert differences(room) == {}
    room.b.restart()
    assert health(bob, r) == {}
    assert differences(room) == {}
    no_errors(room)


def test_state_that_was_replaced_since(room: Room) -> None:
    r, alice, bob = room.room_id, room.alice, room.bob
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    between = alice.send_message(r, "Between")
    replacing = [alice.send_state(r, "m.room.topic", {"topic": "Not lost"})]
    everywhere(room, between, *replacing)
    # Of this key there was none before, so what comes next is the first one here.
    first = lose_state(room, "org.example.state", {"number": 1})
    replacing.append(alice.send_state(r, "org.example.state", {"number": 2}))
    last = alice.send_message(r, "Last")
    everywhere(room, *replacing, last)
    assert room.b.rejected(r) == {topic, first}
    shared = compare.shared_events(room)
    right = HostilePeer(room.b, r).states_given(room.a, shared)

    # The state after them is the same with what was lost, that before them is not.
    plan = dry_run(bob, r)
    assert plan["summary"]["restate"] == len([between, *replacing])
    assert plan["summary"]["state_changes"] == []
    client, since = synced(bob, room)
    # What is in the running server's caches is to go.
    shown = {bob.event(r, i)["unsigned"].get("replaces_state") for i in replacing}
    assert shown.isdisjoint([topic, first])
    rows = "SELECT {} FROM {} WHERE event_id = ?"
    stored = [
        (table, column, room.b.database.value(rows.format(column, table), event_id), event_id)
        for table, column in (("event_json", "json"), ("event_to_state_groups", "state_group"))
        for event_id in replacing
    ]
    repair(bob, r)
    assert [bob.event(r, i)["unsigned"]["replaces_state"] for i in replacing] == [topic, first]
    assert HostilePeer(room.a, r).states_given(room.b, shared) == right
    assert differences(room) == {}
    client.apply(bob.sync(since))
    assert client.state["m.room.topic", ""] == replacing[0]
    assert dry_run(bob, r)["summary"]["restate"] == 0
    assert health(bob, r) == {}

    # As a repair by an earlier version left it.
    room.b.stop()
    for table, column, value, event_id in stored:
        room.b.database.execute(
            f"UPDATE {table} SET {column} = ? WHERE event_id = ?", value, event_id
        )
    room.b.start()
    assert health(bob, r) == {"stale_state": len(replacing)}
    repair(bob, r)
    room.b.restart()
    assert HostilePeer(room.a, r).states_given(room.b, shared) == right
    assert health(bob, r) == {}
    no_errors(room)


def test_a_server_acl_that_was_lost(room: Room) -> None:
    r, peer = room.room_id, HostilePeer(room.a, room.room_id)
    # Of addresses without a name, as all servers here have.
    lose_state(room, "m.room.server_acl", {"allow": ["*"], "allow_ip_literals": False})
    everywhere(room, room.alice.send_message(r, "Still let in"))
    # So that Synapse tells nobody of it as of something new.
    repair(room.bob, r, deliver="history")
    pdu, event_id = peer.forge(
        "m.room.message", room.alice.user_id, {"msgtype": "m.text", "body": "Not any more"}
    )
    assert peer.send(room.b, pdu)[event_id]["errcode"] == "M_FORBIDDEN"
    no_errors(room)


def test_states_that_are_asked_for_are_not_the_old_ones(room: Room) -> None:
    # Over the running server's caches: everything is asked for before and after.
    r, bob = room.room_id, room.bob
    topic = lose_state(room, "m.room.topic", {"topic": "Lost"})
    message = room.alice.send_message(r, "After it")
    everywhere(room, message)

    def topic_at(event_id: str) -> str:
        state = bob.context(r, event_id, limit=0)["state"]
        (found,) = [e["event_id"] for e in state if e["type"] == "m.room.topic"]
        return str(found)

    assert topic_at(message) != topic
    repair(bob, r)
    assert topic_at(message) == topic


def test_many_kinds_of_state(room: Room) -> None:
    r, bob, alice = room.room_id, room.bob, room.alice
    x = lose(room, lambda: promote(room, room.carol, 50), type="m.room.power_levels")
    sent = [
        alice.send_state(r, type, content)
        for type, content in (
            ("m.room.name", {"name": "Lost name"}),
            ("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}),
            ("m.room.join_rules", {"join_rule": "invite"}),
            ("m.room.history_visibility", {"history_visibility": "joined"}),
            ("m.room.pinned_events", {"pinned": [x]}),
            ("m.room.canonical_alias", {}),
            ("m.room.guest_access", {"guest_access": "forbidden"}),
            ("m.room.tombstone", {"body": "Moved", "replacement_room": "!elsewhere:a"}),
            ("org.example.custom", {"a": [1, {"b": None}]}),
        )
    ]
    sent += [
        alice.send_event(r, "m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2"}),
        alice.send_event(
            r, "org.example.labelled", {"org.matrix.labels": ["#work"], "body": "https://a.b/"}
        ),
        alice.send_message(r, "See https://example.org/", url="mxc://a/b"),
        alice.send_state(r, "m.room.name", {"name": "Lost name 2"}),
        alice.send_state(
            r, "m.room.member", {"membership": "join", "displayname": "Al"}, alice.user_id
        ),
    ]
    everywhere(room, *sent)
    assert room.b.rejected(r) == {x, *sent}
    client, since = synced(bob, room)
    plan = dry_run(bob, r)
    repair(bob, r)
    state = compare.current_state(room.a, r)
    assert {(c["type"], c["state_key"]): c["to"] for c in plan["summary"]["state_changes"]} == {
        key: i for key, i in state.items() if i in {x, *sent}
    }
    client.apply(bob.sync(since))
    assert client.state == state
    assert differences(room) == {}
    no_errors(room)


def test_memberships(room: Room) -> None:
    r, bob, alice = room.room_id, room.bob, room.alice
    users = {
        name: room.a.register(f"{name}-{alice.user_id[1:].split(':')[0]}")
        for name in ("joiner", "banned", "kicked", "leaver", "invited")
    }
    for name in ("banned", "kicked", "leaver"):
        users[name].join(r)
        wait_for(lambda name=name: users[name].user_id in bob.members(r), what="the join")  # type: ignore[misc]
    lost = [
        lose_membership(room, act, users[name].user_id)
        for name, act in (
            ("joiner", lambda: users["joiner"].join(r)),
            ("banned", lambda: alice.ban(r, users["banned"].user_id)),
            ("kicked", lambda: alice.kick(r, users["kicked"].user_id)),
            ("leaver", lambda: users["leaver"].leave(r)),
            ("invited", lambda: alice.invite(r, users["invited"].user_id)),
        )
    ]
    spoken = users["joiner"].send_message(r, "Hello")
    everywhere(room, spoken)
    assert room.b.rejected(r) == {*lost, spoken}
    roots = {root["event_id"]: root for root in diagnosis(bob, r)["roots"]}
    assert roots.keys() == {*lost}
    assert roots[lost[0]]["cascade"]["count"] == 1

    client, since = synced(bob, room)
    done = repair(bob, r)
    assert done["accepted"] == len(lost) + 1
    client.apply(bob.sync(since))
    assert client.state == compare.current_state(room.a, r)
    memberships = bob.members(r, membership=None)
    assert {name: memberships[user.user_id] for name, user in users.items()} == {
        "joiner": "join",
        "banned": "ban",
        "kicked": "leave",
        "leaver": "leave",
        "invited": "invite",
    }
    assert differences(room) == {}
    no_errors(room)


def test_a_local_user_who_was_kicked(room: Room) -> None:
    r, carol = room.room_id, room.carol
    since = carol.sync()["next_batch"]
    kick = lose_membership(room, lambda: room.alice.kick(r, carol.user_id), carol.user_id)
    after = room.alice.send_message(r, "Without carol")
    everywhere(room, after)
    # B does not know, and lets her in still.
    assert carol.event(r, after)["event_id"] == after
    repair(room.bob, r)
    left = carol.sync(since)["rooms"]["leave"][r]
    events = [*left["timeline"]["events"], *left["state"]["events"]]
    assert kick in {event["event_id"] for event in events}
    sql = "SELECT membership FROM local_current_membership WHERE room_id = ? AND user_id = ?"
    assert room.b.database.value(sql, r, carol.user_id) == "leave"
    with pytest.raises(MatrixError) as refused:
        carol.send_message(r, "Am I here?")
    assert refused.value.status == 403
    assert room.bob.members(r).keys() == room.alice.members(r).keys()
    assert differences(room) == {}
    no_errors(room)


def test_all_local_users_were_kicked(room: Room) -> None:
    # What was lost takes this server out of the room.
    r = room.room_id
    gone = room.b.register(f"gone{room.alice.user_id[6:].partition(':')[0]}")
    gone.join(r)
    gone.leave(r)
    gone.call("POST", f"/_matrix/client/v3/rooms{quoted(r)}/forget", {})
    wait_for(lambda: gone.user_id not in room.alice.members(r), what="A to see who left")
    kicks = [
        lose_membership(room, lambda user=user: room.alice.kick(r, user.user_id), user.user_id)  # type: ignore[misc]
        for user in (room.carol, room.bob)
    ]
    admin = room.bob
    plan = dry_run(admin, r)
    assert plan["summary"]["accept"] == 2
    done = repair(admin, r)
    assert (done["accepted"], done["rejected"]) == (2, 0)
    assert room.b.rejected(r) == set()
    # It is no room of anybody's here, as Synapse has it: who shares it hears of nobody.
    for table in ("current_state_events", "sliding_sync_joined_rooms"):
        assert room.b.database.query(f"SELECT 1 FROM {table} WHERE room_id = ?", r) == []
    sql = "SELECT forgotten FROM sliding_sync_membership_snapshots WHERE user_id = ?"
    assert room.b.database.query(sql, gone.user_id) == [(1,)]
    for user, kick in zip((room.carol, room.bob), kicks, strict=True):
        sql = (
            "SELECT membership, event_id FROM local_current_membership"
            " WHERE room_id = ? AND user_id = ?"
        )
        assert room.b.database.query(sql, r, user.user_id) == [("leave", kick)]
        with pytest.raises(MatrixError) as refused:
            user.send_message(r, "Am I here?")
        assert refused.value.status == 403
    # It is a room like any that this server has left.
    with pytest.raises(MatrixError) as refused:
        dry_run(admin, r)
    assert refused.value.status == 409
    no_errors(room)


def test_who_came_back_and_speaks_as_others_do(room: Room) -> None:
    # What follows both branches was accepted, with the state in which she had left.
    r, alice = room.room_id, room.alice
    uma = room.a.register(f"uma-{alice.user_id[1:].split(':')[0]}")
    uma.join(r)
    uma.leave(r)
    everywhere(room, alice.send_message(r, "She has left"))
    join = lose_membership(room, lambda: uma.join(r), uma.user_id)
    forger = Forger(room)
    state = compare.current_state(room.a, r)
    hers, mine = forger.auth(state, uma), forger.auth(state, alice)
    text = {"msgtype": "m.text", "body": "At the same time"}
    first = forger.send("m.room.message", uma, text, [join], hers, depth=60)
    there = forger.send("m.room.message", alice, text, [first], mine, depth=61)
    second = forger.send("m.room.message", uma, text, [first], hers, depth=61)
    forger.send("m.room.message", alice, text, [there, second], mine, depth=62)
    assert room.b.rejected(r) == {join, first, second}

    assert not any(event["soft_failed"] for event in dry_run(room.bob, r)["events"])
    assert repair(room.bob, r)["accepted"] == 3
    assert {first, second} <= {event["event_id"] for event in room.bob.messages(r)}
    assert differences(room) == {}
    assert health(room.bob, r) == {}
    no_errors(room)


def test_redactions_that_were_lost(room: Room) -> None:
    r, alice, bob = room.room_id, room.alice, room.bob
    secret = alice.send_message(r, "A secret password")
    own = bob.send_message(r, "Another secret word")
    everywhere(room, secret, own)
    redactions = [
        lose(room, lambda: alice.redact(r, secret, "oops"), type="m.room.redaction"),
        lose(room, lambda: alice.redact(r, own), type="m.room.redaction"),
    ]
    assert "password" in json.dumps(bob.messages(r))
    assert room.b.rejected(r) == {*redactions}
    client, since = synced(bob, room)
    repair(bob, r)
    assert "secret" not in json.dumps(bob.messages(r))
    for event_id, redaction in zip((secret, own), redactions, strict=True):
        shown = bob.event(r, event_id)
        assert shown["content"] == {}
        assert shown["unsigned"]["redacted_because"]["event_id"] == redaction
    client.timeline.clear()
    client.apply(bob.sync(since))
    assert client.timeline == redactions
    assert search(bob, r, "secret") == search(alice, r, "secret") == set()
    assert differences(room) == {}
    no_errors(room)


def test_a_reaction_that_was_lost_and_taken_back_since(room: Room) -> None:
    r, alice = room.room_id, room.alice
    said = alice.send_message(r, "Said")
    everywhere(room, said)
    reaction = lose(room, lambda: alice.react(r, said, "+"), type="m.reaction")
    everywhere(room, alice.redact(r, reaction))
    assert room.b.rejected(r) == {reaction}
    assert repair(room.bob, r)["accepted"] == 1
    assert differences(room) == {}
    assert room.bob.relations(r, said, "m.annotation") == []
    no_errors(room)


def test_a_redaction_of_state_that_was_lost_too(room: Room) -> None:
    r, alice = room.room_id, room.alice
    topic = lose_state(room, "m.room.topic", {"topic": "Rude words"})
    redaction = lose(room, lambda: alice.redact(r, topic), type="m.room.redaction")
    assert room.b.rejected(r) == {topic, redaction}
    repair(room.bob, r)
    assert room.bob.get_state(r, "m.room.topic") == {}
    assert "Rude" not in json.dumps(list(room.bob.state(r).values()))
    assert differences(room) == {}


def test_edits_and_threads_across_the_border_of_what_was_lost(room: Room) -> None:
    # The thread's root and the edited message are lost, what relates to them is not.
    r, alice, bob = room.room_id, room.alice, room.bob
    root = lose_message(room, "Root")
    reply = alice.send_in_thread(r, root, "Reply")
    edit = alice.edit(r, root, "Root, edited")
    reaction = alice.react(r, root, "x")
    everywhere(room, reply, edit, reaction)
    own_reply = bob.send_in_thread(r, root, "Own reply")
    everywhere(room, own_reply)
    repair(bob, r)
    relations = bob.event(r, root)["unsigned"]["m.relations"]
    assert relations["m.thread"]["count"] == 2
    assert relations["m.thread"]["latest_event"]["event_id"] == own_reply
    assert relations["m.replace"]["event_id"] == edit
    assert differences(room) == {}


# Parts.


def test_event_ids(room: Room) -> None:
    # Two roots of which neither cites the other: two users of A join, and are lost.
    r, alice, bob = room.room_id, room.alice, room.bob
    name = alice.user_id[1:].split(":")[0]
    one, two = (room.a.register(f"{n}-{name}") for n in ("one", "two"))
    x = lose_membership(room, lambda: one.join(r), one.user_id)
    y = lose_membership(room, lambda: two.join(r), two.user_id)
    of_x = [
        one.send_message(r, "One"),
        one.send_state(
            r, "m.room.member", {"membership": "join", "displayname": "Uno"}, one.user_id
        ),
    ]
    of_y = [two.send_message(r, "Two")]
    everywhere(room, *of_x, *of_y)
    assert room.b.rejected(r) == {x, y, *of_x, *of_y}
    assert {root["event_id"]: root["cascade"]["count"] for root in diagnosis(bob, r)["roots"]} == {
        x: 2,
        y: 1,
    }

    plan = dry_run(bob, r, event_ids=[x])
    assert {e["event_id"] for e in plan["events"]} == {x, *of_x}
    done = repair(bob, r, event_ids=[x], plan=plan["fingerprint"])
    assert (done["accepted"], done["rejected"]) == (3, 0)
    assert room.b.rejected(r) == {y, *of_y}
    assert health(bob, r) == {"wrongly_rejected": 2}
    members = bob.members(r)
    assert one.user_id in members and two.user_id not in members
    # The other root is none of its business, a second time neither.
    assert repair(bob, r, event_ids=[y])["accepted"] == 2
    assert differences(room) == {}
    no_errors(room)


def test_an_event_in_two_cascades(room: Room) -> None:
    # Alice kicks a lost user by lost power levels: the kick cites both.
    r, alice, bob = room.room_id, room.alice, room.bob
    guest = room.a.register(f"guest-{alice.user_id[1:].split(':')[0]}")
    y = lose_membership(room, lambda: guest.join(r), guest.user_id)
    x = lose(room, lambda: promote(room, room.carol, 50), type="m.room.power_levels")
    only_x = alice.send_message(r, "Behind X alone")
    alice.kick(r, guest.user_id)
    both = compare.current_state(room.a, r)[("m.room.member", guest.user_id)]
    everywhere(room, only_x, both)
    roots = {root["event_id"]: root["cascade"]["count"] for root in diagnosis(bob, r)["roots"]}
    assert roots == {y: 1, x: 2}
    listed = bob.repair_api("GET", f"/rooms/{r}/rejections".replace("!", "%21"))["rejections"]
    cites = {row["event_id"]: {*row["cites"]} for row in listed}
    assert cites == {x: set(), y: set(), only_x: {x}, both: {x, y}}

    # Alone, neither root is enough for it.
    plan = dry_run(bob, r, event_ids=[x])
    verdicts = {e["event_id"]: e["verdict"] for e in plan["events"]}
    assert verdicts == {x: "accept", only_x: "accept", both: "reject"}
    done = repair(bob, r, event_ids=[x])
    assert (done["accepted"], done["rejected"]) == (2, 1)
    assert room.b.rejected(r) == {y, both}
    assert repair(bob, r, event_ids=[y])["accepted"] == 2
    assert differences(room) == {}
    no_errors(room)


def test_a_span_of_time(room: Room) -> None:
    r, alice, bob = room.room_id, room.alice, room.bob
    x = lose(room, lambda: promote(room, room.carol, 50), type="m.room.power_levels")
    first, second, third = (alice.send_message(r, f"Message {n}") for n in range(3))
    everywhere(room, first, second, third)
    times = {
        i: bob_ts
        for i, bob_ts in room.b.database.query(
            "SELECT event_id, origin_server_ts FROM events WHERE room_id = ?", r
        )
    }
    assert times[x] < times[second] < times[third] or pytest.skip("too fast to tell apart")

    # Without their root they cannot be accepted.
    plan = dry_run(bob, r, since_ts=times[second])
    assert {e["event_id"]: e["verdict"] for e in plan["events"]} == {
        second: "reject",
        third: "reject",
    }
    done = repair(bob, r, until_ts=times[second])
    assert done["accepted"] == 3
    assert room.b.rejected(r) == {third}
    assert health(bob, r) == {"wrongly_rejected": 1}
    assert compare.extremities(room.b, r) == {second}
    # The room goes on meanwhile.
    everywhere(room, bob.send_message(r, "Between"), alice.send_message(r, "Between as well"))
    done = repair(bob, r, since_ts=times[third], until_ts=times[third])
    assert done["accepted"] == 1
    assert differences(room) == {}
    no_errors(room)


# Force.


def test_force(room: Room) -> None:
    # What alice may not do by the rules: nobody may give more power than they have.
    r, bob = room.room_id, room.bob
    x = lose(room, lambda: promote(room, room.carol, 50), type="m.room.power_levels")
    behind = room.alice.send_message(r, "Behind X")
    everywhere(room, behind)
    for body in ({"force": [behind]}, {"force": [x, behind]}):
        plan = dry_run(bob, r, **body)
        assert plan["summary"]["accept"] == 2
    done = repair(bob, r, force=[x])
    assert done["accepted"] == 2
    assert differences(room) == {}


def test_what_is_not_named_right_changes_nothing(room: Room) -> None:
    r, bob = room.room_id, room.bob
    accepted = room.alice.send_message(r, "Accepted")
    everywhere(room, accepted)
    lost, other = lose_message(room, "Lost"), lose_message(room, "Lost too")
    before = compare.database_facets(room, room.b)
    for body, status in (
        ({"event_ids": [accepted]}, 400),
        ({"event_ids": ["$nowhere"]}, 404),
        ({"force": [accepted]}, 400),
        ({"force": ["$nowhere"]}, 404),
        ({"event_ids": [lost], "force": [other]}, 400),
        ({"event_ids": [lost, accepted]}, 400),
    ):
        with pytest.raises(MatrixError) as refused:
            dry_run(bob, r, dry_run=False, **body)
        assert (refused.value.status, body) == (status, body)
        assert refused.value.errcode and refused.value.error
    assert compare.database_facets(room, room.b) == before
    assert room.b.rejected(r) == {lost, other}


def test_a_room_without_rejections(room: Room) -> None:
    r, bob = room.room_id, room.bob
    everywhere(room, room.alice.send_message(r, "All is well"))
    assert health(bob, r) == {}
    found = diagnosis(bob, r)
    assert (found["rejected_events"], found["roots"], found["still_flowing"]) == (0, [], [])
    assert r not in {row["room_id"] for row in bob.repair_api("GET", "/rooms")["rooms"]}
    before = compare.database_facets(room, room.b)
    done = repair(bob, r)
    assert (done["total"], done["done"], done["accepted"], done["rejected"]) == (0, 0, 0, 0)
    assert compare.database_facets(room, room.b) == before


def test_a_repaired_room_can_err_again(room: Room) -> None:
    r, bob = room.room_id, room.bob
    for number in range(3):
        level = copy.deepcopy(room.alice.get_state(r, "m.room.power_levels"))
        level["users"][room.carol.user_id] = 50 + number
        x = lose_state(room, "m.room.power_levels", level)
        message = room.alice.send_message(r, f"Behind it, {number}")
        everywhere(room, message, bob.send_message(r, f"Own, {number}"))
        assert room.b.rejected(r) == {x, message}
        assert repair(bob, r)["accepted"] == 2
        assert differences(room) == {}
    no_errors(room)
