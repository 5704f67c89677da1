"""Whether a room is whole on B: held against A, which never erred, by what users can see and do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from demo.proof import NotWhole, same
from tests.harness.client import MatrixError
from tests.harness.incident import Incident
from tests.harness.server import Server

Check = Callable[[Incident], str]
"""Looks at one thing, and says in a few words what it saw.

Raises `NotWhole`, or `MatrixError` where B refuses what A allows.
"""

_PATIENCE = 30.0


def _all_messages(incident: Incident) -> str:
    room = incident.room
    a, b = (
        {event["event_id"]: _shown(event) for event in user.messages(room.room_id)}
        for user in (room.alice, room.bob)
    )
    missing = a.keys() - b.keys()
    same(missing, set(), "events that B does not show")
    same(a, b, "what the events say")
    return f"{len(b)} events"


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    return {name: event.get(name) for name in ("type", "sender", "state_key", "content")}


def _current_state(incident: Incident) -> str:
    room = incident.room
    a, b = (
        {key: event["event_id"] for key, event in user.state(room.room_id).items()}
        for user in (room.alice, room.bob)
    )
    same(a, b, "the current state")
    return f"{len(b)} entries"


def _members(incident: Incident) -> str:
    room = incident.room
    a, b = (user.members(room.room_id) for user in (room.alice, room.bob))
    same(a, b, "the members")
    if incident.late.user_id not in b:
        raise NotWhole(f"{incident.late.user_id}, who joined during the incident, is missing")
    return f"{len(b)} of them, {incident.late.user_id} too"


def _extremities(incident: Incident) -> str:
    room = incident.room
    sql = "SELECT event_id FROM event_forward_extremities WHERE room_id = ?"
    a, b = ({i for (i,) in s.database.query(sql, room.room_id)} for s in (room.a, room.b))
    same(a, b, "the forward extremities")
    return f"{len(b)} of them"


def _nothing_rejected(incident: Incident) -> str:
    same(set(), incident.room.b.rejected(incident.room.room_id), "the rejected events")
    return "none"


def _search(incident: Incident) -> str:
    room = incident.room
    a, b = (set(user.search(incident.WORD, [room.room_id])) for user in (room.alice, room.bob))
    same(a, b, f"what is found for {incident.WORD!r}")
    if not b >= set(incident.messages):
        raise NotWhole(f"the search for {incident.WORD!r} lacks messages")
    return f"{len(b)} messages found"


def _relations(incident: Incident) -> str:
    room, r = incident.room, incident.room.room_id
    count = 0
    for event_id, relation in (
        (incident.thread_root, "m.thread"),
        (incident.edited, "m.replace"),
        (incident.reacted, "m.annotation"),
        (incident.early_message, "m.replace"),
        (incident.early_message, "m.annotation"),
    ):
        a, b = (
            {event["event_id"] for event in user.relations(r, event_id, relation)}
            for user in (room.alice, room.bob)
        )
        same(a, b, f"the {relation} of {event_id}")
        count += len(b)
    for event_id in (incident.redacted, incident.early_doomed):
        same(room.bob.event(r, event_id)["content"], {}, f"the redacted {event_id}")
    return f"{count} relations, 2 redactions"


def _told(incident: Incident) -> str:
    room = incident.room
    answer = room.bob.sync(incident.since)["rooms"]["join"].get(room.room_id)
    if answer is None:
        raise NotWhole("a client that had synced all along is told nothing")
    timeline = {event["event_id"] for event in answer["timeline"]["events"]}
    known = timeline | {event["event_id"] for event in answer["state"]["events"]}
    same({*incident.messages, incident.x, incident.topic} - known, set(), "what it is not told")
    return f"{len(timeline)} events in its timeline"


def _moderator(incident: Incident) -> str:
    room, topic = incident.room, "Set by a moderator whom the lost event had promoted"
    try:
        event_id = room.carol.send_state(room.room_id, "m.room.topic", {"topic": topic})
    except MatrixError as e:
        raise NotWhole(f"{room.carol.user_id} may not act: {e.error}") from None
    _arrives(room.a, event_id, "the moderator's act")
    same(topic, room.alice.get_state(room.room_id, "m.room.topic")["topic"], "A's topic")
    return f"{room.carol.user_id} has set the topic, and A has taken it"


def _traffic(incident: Incident) -> str:
    room, r = incident.room, incident.room.room_id
    for sender, receiver, user in (
        (room.alice, room.b, room.bob),
        (room.bob, room.a, room.alice),
        (incident.late, room.b, room.bob),
        (room.carol, room.a, room.alice),
    ):
        event_id = sender.send_message(r, f"Can you hear me? {sender.user_id}")
        _arrives(receiver, event_id, f"a message of {sender.user_id}")
        if event_id not in {event["event_id"] for event in user.messages(r, limit=20)}:
            raise NotWhole(f"{user.user_id} does not see a message of {sender.user_id}")
    same(set(), room.a.rejected(r) | room.b.rejected(r), "the rejected events")
    return "two messages each way"


def _arrives(server: Server, event_id: str, what: str) -> None:
    try:
        server.wait_for_event(event_id, _PATIENCE)
    except TimeoutError:
        raise NotWhole(f"{what} does not arrive at {server.name}") from None
    sql = "SELECT reason FROM rejections WHERE event_id = ?"
    reason = server.database.value(sql, event_id)
    if reason is not None:
        raise NotWhole(f"{what} is rejected by {server.name}: {reason}")


def _logs(incident: Incident) -> str:
    room = incident.room
    for server in (room.a, room.b):
        errors = server.errors_in_log()
        if errors:
            raise NotWhole(f"the log of {server.name} speaks of an error:\n{errors[0][:2000]}")
    return "both servers'"


CHECKS: dict[str, Check] = {
    "Nothing is rejected any more": _nothing_rejected,
    "Every event is there, and says what it says on A": _all_messages,
    "The current state is A's": _current_state,
    "The members are A's": _members,
    "The forward extremities are A's": _extremities,
    "The search finds what A's finds": _search,
    "Threads, edits, reactions and redactions apply": _relations,
    "A client that was syncing all along is told": _told,
    "The promoted moderator can act": _moderator,
    "New messages go both ways": _traffic,
    "No error is in the logs": _logs,
}
