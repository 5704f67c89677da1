"""Servers that are in a room together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.harness.client import Client
from tests.harness.server import Server
from tests.harness.waiting import wait_for

# Users are made anew for each room, so that rooms on one pair of servers have nothing in common.
_serial = itertools.count(1)


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Starts servers side by side, and stops them in the end, whatever happens."""
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait_healthy()
        yield
    finally:
        for server in servers:
            server.stop()


@dataclass(frozen=True)
class Pair:
    """Two running servers: A, which does all right, and B, which will err."""

    a: Server
    b: Server

    def room(self, version: str) -> Room:
        """Returns a new room that both are in."""
        return federated_room(self.a, self.b, version)


@dataclass(frozen=True)
class Room:
    """A room that A made, and that two users of B are in."""

    room_id: str
    version: str
    a: Server
    b: Server
    alice: Client
    """A's user, who made the room; an administrator of A."""
    bob: Client
    """B's user; an administrator of B."""
    carol: Client
    """B's other user."""

    def wait_everywhere(self, event_id: str) -> None:
        """Waits until both servers have stored an event."""
        self.a.wait_for_event(event_id)
        self.b.wait_for_event(event_id)


def federated_room(a: Server, b: Server, version: str) -> Room:
    """Makes a room on A and lets B's users in.

    Args:
        a: The server that makes it.
        b: The server that joins it.
        version: The room's version.

    Returns:
        The room, which both servers know whole.
    """
    number = next(_serial)
    alice = a.register(f"alice{number}", admin=True)
    bob = b.register(f"bob{number}", admin=True)
    carol = b.register(f"carol{number}")
    room_id = alice.create_room(version, name=f"Room {number}", topic="Before the incident")
    for user in (bob, carol):
        user.join(room_id, via=a.name)
    wait_for(
        lambda: {bob.user_id, carol.user_id} <= alice.members(room_id).keys(),
        what="A to see B's users in the room",
    )
    # B may have joined with a part of the state, and be fetching the rest.
    partial = "SELECT 1 FROM partial_state_rooms WHERE room_id = ?"
    wait_for(lambda: not b.database.query(partial, room_id), what="B to know the whole state")
    return Room(room_id, version, a, b, alice, bob, carol)
