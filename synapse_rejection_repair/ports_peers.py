"""What asking other servers asks of the outer layers: a Protocol that `adapter` implements."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from synapse_rejection_repair.domain.model import Node, StateIds, StateKey
from synapse_rejection_repair.domain.peers import PeerAnswer
from synapse_rejection_repair.ports import Checker


class Peers(Protocol):
    """The other servers of rooms, as Synapse's own federation client reaches them."""

    async def ask(self, room_id: str, event_id: str, sender: str, count: int) -> list[PeerAnswer]:
        """Asks some servers of a room for the state before an event, all at once."""

    async def room_of(self, event_id: str) -> tuple[str, str]:
        """The room and the sender of an event.

        Raises:
            UnknownEvent: this server does not have it.
        """

    async def state_before(self, room_id: str, event_id: str) -> StateIds:
        """The state before an event, as it is here."""

    async def keys(self, event_ids: Collection[str]) -> dict[str, StateKey]:
        """Which entries of a state those of the events hold that are known here."""


class StatesElsewhere(Protocol):
    """The states before events as another server has them, for one plan.

    Attributes:
        server: the server.
    """

    server: str

    @property
    def expected(self) -> Collection[str]:
        """The events before which a state is known by now."""

    async def state_before(self, node: Node, ours: StateIds, checker: Checker) -> StateIds | None:
        """The state before an event there; `None` where that server has none.

        Args:
            node: the event.
            ours: the state before it here.
            checker: is told of events that are in that state, and not stored here.

        Raises:
            StateMoved: ours is not what it was when that state was taken.
            PeerFailed: the server does not answer.
            PeerStateRefused: it answers with an event that cannot be believed.
        """


class AskedStates(StatesElsewhere, Protocol):
    """Likewise, of a server that is asked."""

    @property
    def lacking(self) -> Collection[str]:
        """The events that the server says it does not hold."""


class PeerStates(Protocol):
    """Other servers, as those that the state before an event may be taken from."""

    async def require_peer(self, room_id: str, server: str) -> None:
        """Checks that a server is, or was, in a room.

        Raises:
            InvalidParam: it is this server, or was never in the room.
        """

    def elsewhere(self, room_id: str, room_version: str, server: str) -> AskedStates:
        """What a server has, asked for when it is needed. Writes nothing."""

    async def secure(
        self, room_id: str, room_version: str, server: str, event_ids: Collection[str]
    ) -> None:
        """Stores those of some events that are missing here as outliers, got from a server.

        Raises:
            PeerFailed: it does not answer.
            PeerStateRefused: it does not give an event, or one that cannot be believed.
        """
