"""Taking the state before an event from another server: the `PeerStates`."""

from __future__ import annotations

from collections.abc import Collection

from synapse.api.constants import EventTypes
from synapse.events import EventBase
from synapse.server import HomeServer
from typing_extensions import override

from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.peer_events import PeerEvents
from synapse_rejection_repair.adapter.peers import SynapsePeers
from synapse_rejection_repair.domain.model import Node, StateIds, StateKey
from synapse_rejection_repair.domain.peers import Held
from synapse_rejection_repair.errors import InvalidParam
from synapse_rejection_repair.errors_peers import PeerFailed, PeerStateRefused
from synapse_rejection_repair.ports import Checker
from synapse_rejection_repair.ports_peers import AskedStates, PeerStates

_MOST_STATES = 20
"""Before how many events of one plan a server's state is asked for."""

_CREATE: StateKey = (EventTypes.Create, "")


class SynapsePeerStates(PeerStates):
    """Looks at all of a state before anything of it is stored.

    Otherwise as `FederationEventHandler._get_state_ids_after_missing_prev_event`, which leaves
    out what it cannot get or use (read in Synapse 1.151.0 and 1.163.2).

    Args:
        hs: the homeserver.
        database: its main database.
        peers: asks other servers.
        events: fetches events.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        peers: SynapsePeers,
        events: PeerEvents,
    ) -> None:
        self._server_name = hs.hostname
        self._handler = hs.get_federation_event_handler()
        self._database = database
        self._peers = peers
        self._events = events

    @override
    async def require_peer(self, room_id: str, server: str) -> None:
        # Where our state is wrong, it may well not know who is in the room.
        if server == self._server_name:
            raise InvalidParam("state_from", "must name another server")
        rows = await self._database.rows(
            "was_in_room",
            "SELECT 1 FROM room_memberships AS m LEFT JOIN rejections AS r USING (event_id)"
            " WHERE m.room_id = ? AND m.membership = 'join' AND m.user_id LIKE ?"
            " AND r.event_id IS NULL LIMIT 1",
            (room_id, f"%:{server}"),
        )
        if not rows:
            raise InvalidParam("state_from", "names a server that was never in the room")

    @override
    def elsewhere(self, room_id: str, room_version: str, server: str) -> AskedServer:
        return AskedServer(self, room_id, room_version, server)

    async def ask(
        self, room_id: str, room_version: str, server: str, event_id: str
    ) -> tuple[StateIds, dict[str, EventBase]] | None:
        """The state before an event on a server, and those events of it that are not here.

        Returns:
            `None` if the server does not hold the event.

        Raises:
            PeerFailed: it does not answer, or not with sense.
            PeerStateRefused: it answers with an event that cannot be believed.
        """
        answer = await self._peers.ask_server(server, room_id, event_id)
        if answer.answer is Held.DOES_NOT_HOLD:
            return None
        if answer.answer is Held.NO_ANSWER:
            raise PeerFailed(server, answer.error or "no answer")
        keys = await self._events.known_keys(room_id, server, answer.state_ids)
        missing = answer.state_ids - keys.keys()
        fetched = await self._events.fetch(room_id, room_version, server, missing)
        state: dict[StateKey, str] = {}
        for event_id in sorted(answer.state_ids):
            key = keys.get(event_id) or _key(fetched[event_id])
            if key is None:
                raise PeerStateRefused(server, event_id, "it is no state event")
            if key in state:
                raise PeerStateRefused(server, event_id, f"it sets the same as {state[key]}")
            state[key] = event_id
        # Whoever could forge that could forge all that follows.
        if state.get(_CREATE) not in keys:
            raise PeerFailed(server, "Its answer is not of this room: it has another m.room.create")
        return state, fetched

    @override
    async def secure(
        self, room_id: str, room_version: str, server: str, event_ids: Collection[str]
    ) -> None:
        missing = (
            set(event_ids) - (await self._events.known_keys(room_id, server, event_ids)).keys()
        )
        fetched = await self._events.fetch(room_id, room_version, server, missing)
        if not fetched:
            return
        await self._handler._auth_and_persist_outliers(room_id, fetched.values())
        rows = await self._database.rows_of(
            "secured",
            "SELECT e.event_id FROM events AS e LEFT JOIN rejections AS r USING (event_id)"
            " WHERE r.event_id IS NULL AND",
            fetched,
            "e.event_id",
        )
        for lost in sorted(fetched.keys() - {event_id for (event_id,) in rows}):
            raise PeerStateRefused(server, lost, "Synapse does not accept it")


class AskedServer(AskedStates):
    """One server's states before events, for one plan.

    Args:
        states: how it is asked.
        room_id: the room.
        room_version: its version's identifier.
        server: the server.
    """

    def __init__(
        self, states: SynapsePeerStates, room_id: str, room_version: str, server: str
    ) -> None:
        self.server = server
        self._states = states
        self._room = room_id, room_version
        self._answers: dict[str, tuple[StateIds, dict[str, EventBase]] | None] = {}

    @property
    @override
    def expected(self) -> Collection[str]:
        return [event_id for event_id, answer in self._answers.items() if answer is not None]

    @property
    @override
    def lacking(self) -> Collection[str]:
        return [event_id for event_id, answer in self._answers.items() if answer is None]

    @override
    async def state_before(self, node: Node, ours: StateIds, checker: Checker) -> StateIds | None:
        assert isinstance(checker, EventChecker)
        event_id = node.event_id
        if event_id not in self._answers:
            if len(self._answers) >= _MOST_STATES:
                return None
            self._answers[event_id] = await self._states.ask(*self._room, self.server, event_id)
        answer = self._answers[event_id]
        if answer is None:
            return None
        state, fetched = answer
        checker.known.introduce(fetched.values())
        return state


def _key(event: EventBase) -> StateKey | None:
    return (event.type, event.state_key) if event.is_state() else None
