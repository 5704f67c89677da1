"""Asking other servers, through Synapse's own federation client: the `Peers`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from synapse.api.errors import (
    FederationDeniedError,
    HttpResponseException,
    RequestSendFailed,
)
from synapse.logging.context import run_in_background
from synapse.server import HomeServer
from synapse.storage.databases.main.transactions import DestinationRetryTimings
from synapse.util.retryutils import NotRetryingDestination
from typing_extensions import override

from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.nodes import read_nodes
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.model import StateIds, StateKey, server_of
from synapse_rejection_repair.domain.peers import Held, PeerAnswer, in_turn
from synapse_rejection_repair.errors import UnknownEvent
from synapse_rejection_repair.ports import Clock, StateReader
from synapse_rejection_repair.ports_peers import Peers

_SECONDS = 10.0
"""How long servers have to answer, in seconds."""

_TICK = 0.05
_AT_ONCE = 100
"""Of how many servers it is looked up at once whether Synapse tries them."""

_MOST_STATE = 200_000
"""How many events a state that is answered may have: more is no answer."""


class SynapsePeers(Peers):
    """Reaches other servers as Synapse does, its backoff respected.

    Args:
        hs: the homeserver.
        database: its main database.
        dag: reads rooms.
        states: reads states.
        clock: tells the time.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        dag: SynapseDag,
        states: StateReader,
        clock: Clock,
    ) -> None:
        self._server_name = hs.hostname
        self._client = hs.get_federation_client()
        # Synapse's caching decorators hide the method's type.
        self._store: Any = hs.get_datastores().main
        self._hosts = hs.get_storage_controllers().state
        self._database = database
        self._dag = dag
        self._states = states
        self._clock = clock

    @override
    async def ask(self, room_id: str, event_id: str, sender: str, count: int) -> list[PeerAnswer]:
        chosen = await self.servers(room_id, sender, count)
        return await self._ask_all(chosen, room_id, event_id)

    async def ask_server(self, server: str, room_id: str, event_id: str) -> PeerAnswer:
        """Asks one server for the state before an event."""
        (answer,) = await self._ask_all([server], room_id, event_id)
        return answer

    async def _ask_all(
        self, chosen: Sequence[str], room_id: str, event_id: str
    ) -> list[PeerAnswer]:
        answers: dict[str, PeerAnswer] = {}

        async def ask_one(server: str) -> None:
            answers[server] = await self._ask_one(server, room_id, event_id)

        for server in chosen:
            run_in_background(ask_one, server)
        # A server that is too late is answered for: its request ends by itself.
        deadline = self._clock.now_ms() + _SECONDS * 1000
        while len(answers) < len(chosen) and self._clock.now_ms() < deadline:
            await self._clock.pause(_TICK)
        late = f"No answer within {_SECONDS:.0f} seconds"
        return [answers.get(s) or PeerAnswer(s, Held.NO_ANSWER, late) for s in chosen]

    async def servers(self, room_id: str, sender: str, count: int) -> list[str]:
        """The servers of a room to ask about an event, that of its sender first."""
        joined = [
            host
            for host in await self._hosts.get_current_hosts_in_room_ordered(room_id)
            if host != self._server_name
        ]
        found: list[str] = []
        # A room may have many thousands: no more of them are looked up than are needed.
        for some in batches(in_turn(joined, server_of(sender)), _AT_ONCE):
            timings = await self._store.get_destination_retry_timings_batch(some)
            found += [s for s in some if not self._backed_off(timings.get(s))]
            if len(found) >= count:
                break
        return found[:count]

    async def _ask_one(self, server: str, room_id: str, event_id: str) -> PeerAnswer:
        # What a peer writes is not repeated: whoever runs it could write anything.
        try:
            state, _ = await self._client.get_room_state_ids(server, room_id, event_id)
        except HttpResponseException as e:
            if e.code == 404:
                return PeerAnswer(server, Held.DOES_NOT_HOLD)
            return PeerAnswer(server, Held.NO_ANSWER, f"It answered with the status {e.code}")
        except NotRetryingDestination:
            return PeerAnswer(server, Held.NO_ANSWER, "Synapse does not try it again yet")
        except (RequestSendFailed, FederationDeniedError):
            return PeerAnswer(server, Held.NO_ANSWER, "It cannot be reached, or fails")
        except Exception:
            return PeerAnswer(server, Held.NO_ANSWER, "Its answer makes no sense")
        if not all(isinstance(i, str) for i in state):
            return PeerAnswer(server, Held.NO_ANSWER, "Its answer makes no sense")
        if len(state) > _MOST_STATE:
            return PeerAnswer(server, Held.NO_ANSWER, "Its answer is too large")
        return PeerAnswer(server, Held.HOLDS, state_ids=frozenset(state))

    def _backed_off(self, timings: DestinationRetryTimings | None) -> bool:
        if timings is None:
            return False
        return bool(timings.retry_last_ts + timings.retry_interval > self._clock.now_ms())

    @override
    async def room_of(self, event_id: str) -> tuple[str, str]:
        rows = await self._database.rows(
            "room_of", "SELECT room_id, sender FROM events WHERE event_id = ?", (event_id,)
        )
        if not rows:
            raise UnknownEvent(event_id)
        room_id, sender = rows[0]
        return room_id, sender

    @override
    async def state_before(self, room_id: str, event_id: str) -> StateIds:
        """What is stored of a rejected event; for any other what follows from those before it.

        What is stored of such a one may be the state after it.
        """
        node = (await read_nodes(self._database, [event_id]))[event_id]
        if node.rejected is None and node.prev_event_ids:
            return await self._states.after(room_id, node.prev_event_ids)
        groups = await self._dag.state_groups([event_id])
        return await self._states.full(groups[event_id]) if event_id in groups else {}

    @override
    async def keys(self, event_ids: Collection[str]) -> dict[str, StateKey]:
        rows = await self._database.rows_of(
            "state_keys",
            "SELECT event_id, type, state_key FROM state_events WHERE",
            event_ids,
            "event_id",
        )
        return {event_id: (type_, state_key) for event_id, type_, state_key in rows}
