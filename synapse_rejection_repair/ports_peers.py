"""What asking other servers asks of the outer rooms: a Protocol that `adapter` implements."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.peers import PeerAnswer


class Peers(Protocol):
    """The other servers of rooms, as Synapse's own federation client reaches them."""

    async def ask(self, room_id: str, event_id: str, sender: str, count: int) -> list[PeerAnswer]:
        """Asks some servers of a room for the state before an event, all at once."""

    async def room_of(self, event_id: str) -> tuple[str, str]:
        """The room and the sender of an event; raises `UnknownEvent`."""

    async def state_before(self, room_id: str, event_id: str) -> StateIds:
        """The state before an event, as it is here."""

    async def keys(self, event_ids: Collection[str]) -> dict[str, StateKey]:
        """Which entries of a state those of the events hold that are known here."""
