"""The incident that the project is about, made for real."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from tests.harness.client import Client
from tests.harness.federation import Room
from tests.harness.waiting import wait_for


@dataclass
class Incident:
    """A room in which B rejected one `m.room.power_levels` event, and so all that A sent after it.

    What A sent, and B rejected, is named after what it is. The events that B accepted before have
    names that begin with `early`.
    """

    room: Room
    late: Client
    """A's user who joined after X."""

    x: str = ""
    """The power levels that make carol a moderator: the root."""
    messages: list[str] = field(default_factory=list)
    thread_root: str = ""
    thread_replies: list[str] = field(default_factory=list)
    edited: str = ""
    edit: str = ""
    reacted: str = ""
    reaction: str = ""
    redacted: str = ""
    redaction: str = ""
    topic: str = ""
    join: str = ""
    late_message: str = ""
    """By the user who joined after X."""

    early_message: str = ""
    """Alice's, before X; `early_edit` and `early_reaction` came after X and relate to it."""
    early_edit: str = ""
    early_reaction: str = ""
    early_doomed: str = ""
    """Alice's, before X; `early_redaction` came after X and redacts it."""
    early_redaction: str = ""

    lost: list[str] = field(default_factory=list)
    """All that B rejected, in the order in which A sent it; X is the first."""
    kept: list[str] = field(default_factory=list)
    """What B's user sent after X, which went out and was accepted by A."""
    since: str = ""
    """Bob's sync token from just before X: what a client that synced all along had last."""

    NEW_TOPIC = "After the incident"
    WORD = "lostandfound"
    """A word that is in every lost message, and in no other."""


def promote(room: Room, user: Client, level: int) -> str:
    """Lets alice give a user a power level, and returns the event's id."""
    content = copy.deepcopy(room.alice.get_state(room.room_id, "m.room.power_levels"))
    content.setdefault("users", {})[user.user_id] = level
    return room.alice.send_state(room.room_id, "m.room.power_levels", content)


def make_incident(room: Room, messages: int = 3) -> Incident:
    """Makes B reject X, and lets both servers go on as in the real incident.

    Args:
        room: The room, which is whole so far.
        messages: How many plain messages A sends after X, besides all the rest.

    Returns:
        The incident, after B has stored, and rejected, everything that A sent.
    """
    r, alice, bob = room.room_id, room.alice, room.bob
    incident = Incident(room, late=room.a.register(f"late-{alice.user_id[1:].split(':')[0]}"))

    incident.early_message = alice.send_message(r, "An early message")
    incident.early_doomed = alice.send_message(r, "An early message that will be redacted")
    early_reply = bob.send_message(r, "An early reply")
    for event_id in (incident.early_message, incident.early_doomed, early_reply):
        room.wait_everywhere(event_id)
    incident.since = bob.sync()["next_batch"]

    room.b.sabotage(type="m.room.power_levels", room_id=r)
    incident.x = promote(room, room.carol, 50)
    room.b.wait_for_event(incident.x)
    room.b.sabotage_off()
    assert room.b.rejected(r) == {incident.x}, "X was to be rejected, and nothing else yet"
    lost = incident.lost
    lost.append(incident.x)

    def say(body: str) -> str:
        return add(alice.send_message(r, f"{body} {incident.WORD}"))

    def add(event_id: str) -> str:
        lost.append(event_id)
        return event_id

    def answer(body: str) -> None:
        incident.kept.append(bob.send_message(r, body))
        try:
            room.a.wait_for_event(incident.kept[-1], timeout=30)
        except TimeoutError:
            # Where several processes write events, Synapse's sender was seen to wait for news of
            # the other ones, from whatever room.
            bob.create_room("11")
            room.a.wait_for_event(incident.kept[-1])

    incident.messages = [say(f"Message {number}") for number in range(messages)]
    answer("Is anybody there?")
    incident.thread_root = say("A thread")
    incident.thread_replies = [
        add(alice.send_in_thread(r, incident.thread_root, f"In a thread {incident.WORD}"))
        for _ in range(2)
    ]
    incident.edited = say("Wrong")
    incident.edit = add(alice.edit(r, incident.edited, f"Right {incident.WORD}"))
    incident.reacted = say("Applause")
    incident.reaction = add(alice.react(r, incident.reacted, "👏"))
    incident.redacted = say("To be redacted")
    incident.redaction = add(alice.redact(r, incident.redacted, "said too much"))
    answer("I see nothing")
    incident.early_edit = add(alice.edit(r, incident.early_message, f"Corrected {incident.WORD}"))
    incident.early_reaction = add(alice.react(r, incident.early_message, "👀"))
    incident.early_redaction = add(alice.redact(r, incident.early_doomed))
    incident.topic = add(alice.send_state(r, "m.room.topic", {"topic": incident.NEW_TOPIC}))
    incident.late.join(r)
    incident.join = add(
        room.a.database.value(
            "SELECT event_id FROM current_state_events "
            "WHERE room_id = ? AND type = 'm.room.member' AND state_key = ?",
            r,
            incident.late.user_id,
        )
    )
    incident.late_message = add(incident.late.send_message(r, f"I am new {incident.WORD}"))
    answer("Hello?")

    wait_for(
        lambda: room.b.rejected(r) >= set(lost),
        timeout=30 + messages / 10,
        what="B to reject everything that A sent",
    )
    assert room.b.rejected(r) == set(lost), "B rejected something of its own"
    assert not room.a.rejected(r), "A was to reject nothing"
    return incident
