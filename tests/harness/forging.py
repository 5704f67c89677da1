"""Sends both servers of a room the same events, at whatever place in its history."""

from __future__ import annotations

from collections.abc import Sequence

from tests.harness.client import Client, JsonDict
from tests.harness.federation import Room
from tests.harness.hostile import HostilePeer

POWER = ("m.room.power_levels", "")
State = dict[tuple[str, str], str]


class Forger:
    """Sends both servers the same forged events."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.peer = HostilePeer(room.a, room.room_id)
        self.sent: list[str] = []

    def auth(self, state: State, *users: Client, join_rules: bool = False) -> list[str]:
        """What an event of these users should cite, out of a state."""
        keys = [POWER, *(("m.room.member", user.user_id) for user in users)]
        if self.room.version < "12":
            keys.append(("m.room.create", ""))
        if join_rules:
            keys.append(("m.room.join_rules", ""))
        return [state[key] for key in keys]

    def send(
        self,
        type: str,
        sender: Client,
        content: JsonDict,
        prevs: Sequence[str],
        auth: Sequence[str],
        state_key: str | None = None,
        depth: int = 50,
        stored: bool = True,
    ) -> str:
        event, event_id = self.peer.forge(
            type,
            sender.user_id,
            content,
            state_key=state_key,
            prev_events=prevs,
            auth_events=auth,
            depth=depth,
        )
        for server in (self.room.a, self.room.b):
            answer = self.peer.send(server, event)
            assert not stored or answer == {event_id: {}}, answer
        if stored:
            self.room.wait_everywhere(event_id)
        self.sent.append(event_id)
        return event_id
