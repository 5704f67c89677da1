"""Makes B lose single events, where the whole incident would be too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.harness.client import Client, JsonDict
from tests.harness.compare import current_state
from tests.harness.federation import Room
from tests.harness.waiting import wait_for


def lose(room: Room, send: Callable[[], str], **match: str) -> str:
    """Makes B reject what A sends next, as if it were wrong.

    Args:
        room: The room.
        send: Sends the event, and returns its id.
        match: What B will know it by; see `tests.harness.sabotage`.

    Returns:
        The event's id.
    """
    room.b.sabotage(1, room_id=room.room_id, **match)
    event_id = send()
    room.b.wait_for_event(event_id)
    room.b.sabotage_off()
    assert event_id in room.b.rejected(room.room_id), f"B was to reject {event_id}"
    return event_id


def lose_state(
    room: Room, type: str, content: JsonDict, state_key: str = "", sender: Client | None = None
) -> str:
    """Makes B reject a state event, by default of alice's."""
    user = sender or room.alice
    return lose(room, lambda: user.send_state(room.room_id, type, content, state_key), type=type)


def lose_message(room: Room, body: str) -> str:
    """Makes B reject a message of alice's."""
    return lose(room, lambda: room.alice.send_message(room.room_id, body), body=body)


def lose_membership(room: Room, act: Callable[[], None], user_id: str) -> str:
    """Makes B reject a change of a user's membership that `act` makes on A."""
    sql = (
        "SELECT event_id FROM current_state_events"
        " WHERE room_id = ? AND type = 'm.room.member' AND state_key = ?"
    )

    def send() -> str:
        act()
        event_id: str = room.a.database.value(sql, room.room_id, user_id)
        return event_id

    return lose(room, send, type="m.room.member", state_key=user_id)


def lose_invite(room: Room, guest: Client) -> str:
    """Makes B reject a change of the power levels, and have an invite behind it as an outlier.

    Args:
        room: The room.
        guest: A user of B's, whom alice invites.

    Returns:
        The invite's id.
    """
    r, alice = room.room_id, room.alice
    levels = alice.get_state(r, "m.room.power_levels")
    users = {**levels.get("users", {}), room.carol.user_id: 50}
    lose_state(room, "m.room.power_levels", {**levels, "users": users})
    room.b.wait_for_event(alice.send_message(r, "Rejected"))
    alice.invite(r, guest.user_id)
    invite = current_state(room.a, r)["m.room.member", guest.user_id]
    # B has signed it, and rejected what came of it as of all events.
    sent = "SELECT last_successful_stream_ordering FROM destinations WHERE destination = ?"
    position = "SELECT stream_ordering FROM events WHERE event_id = ?"
    wait_for(
        lambda: room.a.database.value(sent, room.b.name) >= room.a.database.value(position, invite),
        what="A to have sent the invite",
    )
    outlier = "SELECT outlier FROM events WHERE event_id = ?"
    assert room.b.database.value(outlier, invite) and invite not in room.b.rejected(r)
    return invite


def everywhere(room: Room, *event_ids: str) -> None:
    """Waits until both servers have stored all these events."""
    for event_id in event_ids:
        room.wait_everywhere(event_id)


def settled(room: Room, event_ids: Iterable[str] = ()) -> None:
    """Waits until both servers have stored the events, and hold the same events besides."""
    everywhere(room, *event_ids)
    sql = "SELECT COUNT(*) FROM federation_inbound_events_staging WHERE room_id = ?"
    for server in (room.a, room.b):
        wait_for(
            lambda server=server: server.database.value(sql, room.room_id) == 0,  # type: ignore[misc]
            what=f"{server.name} to be done with what came in",
        )
