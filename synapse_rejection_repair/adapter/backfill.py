"""Getting what a room lacks, through Synapse's own backfill."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

from synapse.logging.context import run_in_background
from synapse.server import HomeServer
from synapse.types import get_domain_from_id
from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.gaps import GapReader
from synapse_rejection_repair.adapter.nodes import read_nodes
from synapse_rejection_repair.adapter.stored_events import read_stored
from synapse_rejection_repair.domain.gaps import Gap
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_gaps import GapFiller

logger = logging.getLogger(__name__)

_SECONDS = 20.0
"""How long one server has to answer, in seconds."""

_LATE_SECONDS = 2.0
"""How long events may take that Synapse processes in the background, in seconds."""

_TICK = 0.05
_LIMIT = 100
"""How many events are asked for at once: as many as Synapse answers with."""

_MOST_ROUNDS = 200
"""How often other servers are asked in one repair."""


class Backfill(GapFiller):
    """Gets missing events by Synapse's own backfill.

    That is `FederationEventHandler.backfill` (read in Synapse 1.151.0 and 1.163.2). It checks all
    that comes and stores it as history: no client is told of it as of something new, and it
    cannot become a forward extremity.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        gaps: finds what is missing.
        servers: gives the servers to ask about an event, of a room, an event and its sender.
        clock: tells the time.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        gaps: GapReader,
        servers: Callable[[str, str], Awaitable[list[str]]],
        clock: Clock,
    ) -> None:
        self._handler = hs.get_federation_event_handler()
        self._store = hs.get_datastores().main
        self._database = database
        self._gaps = gaps
        self._servers = servers
        self._clock = clock

    @override
    async def fill(
        self, room_id: str, gaps: Sequence[Gap], cancelled: Callable[[], Awaitable[bool]]
    ) -> int:
        before = await self._lowest(room_id)
        cited_by = await read_nodes(self._database, {i for gap in gaps for i in gap.cited_by[:1]})
        waiting = [(g.event_id, cited_by[g.cited_by[0]].sender) for g in gaps if g.cited_by]
        await self._receive(room_id, [g.event_id for g in gaps if not g.cited_by])
        depths = [node.depth for node in cited_by.values()]
        repaired = await self._gaps.repaired_since(room_id)
        floor = await self._gaps.floor(room_id, depths if repaired is None else [*depths, repaired])
        tried: set[str] = set()
        silent: set[str] = set()
        for _ in range(_MOST_ROUNDS):
            waiting = [(i, sender) for i, sender in waiting if i not in tried]
            if not waiting or floor is None or await cancelled():
                break
            event_id, sender = waiting[0]
            tried.add(event_id)
            if event_id in await self._gaps.here([event_id]) or await self._get(
                room_id, event_id, sender, silent
            ):
                waiting += await self._behind(event_id, floor, before)
        return await self._stored_below(room_id, before)

    async def _get(self, room_id: str, event_id: str, sender: str, silent: set[str]) -> bool:
        """Asks one server after the other; gives whether the event has come."""
        for server in await self._servers(room_id, sender):
            if server in silent:
                continue
            if not await self._ask(server, room_id, event_id):
                # Waiting for it once is enough.
                silent.add(server)
            if event_id in await self._gaps.here([event_id]):
                return True
        return False

    async def _ask(self, server: str, room_id: str, event_id: str) -> bool:
        """Asks a server; gives whether it has answered in time."""

        async def backfill() -> None:
            await self._handler.backfill(server, room_id, _LIMIT, [event_id])

        if not await self._in_time(server, room_id, backfill):
            return False
        # What has failed before, Synapse processes in the background.
        deadline = self._clock.now_ms() + _LATE_SECONDS * 1000
        while self._clock.now_ms() < deadline and not await self._gaps.here([event_id]):
            await self._clock.pause(_TICK)
        return True

    async def _in_time(
        self, server: str, room_id: str, work: Callable[[], Awaitable[None]]
    ) -> bool:
        """Whether some work that another server is asked in succeeds in time."""
        done: list[bool] = []

        async def finish() -> None:
            # What a peer writes is not repeated: whoever runs it could write anything.
            try:
                await work()
                done.append(True)
            except Exception as e:
                logger.info("%s gives nothing of %s: %s", server, room_id, type(e).__name__)
                done.append(False)

        run_in_background(finish)
        deadline = self._clock.now_ms() + _SECONDS * 1000
        while not done and self._clock.now_ms() < deadline:
            await self._clock.pause(_TICK)
        return done == [True]

    async def _receive(self, room_id: str, event_ids: Collection[str]) -> None:
        """Has Synapse receive outliers as if they came as all events do.

        By `FederationEventHandler.on_receive_pdu` (read in Synapse 1.151.0 and 1.163.2), since
        nobody has told clients of them as a part of the room, and the room may end with them: what
        is backfilled never is its end.
        """
        if not event_ids:
            return
        version = await self._store.get_room_version(room_id)
        for stored in await read_stored(self._database, event_ids):
            event = stored.as_sent(version)
            server = get_domain_from_id(event.sender)
            await self._in_time(
                server, room_id, partial(self._handler.on_receive_pdu, server, event)
            )

    async def _behind(self, event_id: str, floor: int, before: int) -> list[tuple[str, str]]:
        """What is missing behind an event that has come, each with the sender of a follower."""
        missing = []
        seen = {event_id}
        todo = [event_id]
        while todo:
            nodes = await read_nodes(self._database, todo)
            follows = {
                prev: node
                for node in nodes.values()
                if node.depth > floor
                and (node.event_id == event_id or node.stream_ordering < before)
                for prev in node.prev_event_ids
                if prev not in seen
            }
            seen.update(follows)
            here = await self._gaps.here(follows)
            missing += [(i, node.sender) for i, node in follows.items() if i not in here]
            todo = sorted(here)
            await self._clock.breathe()
        return missing

    async def _lowest(self, room_id: str) -> int:
        ((lowest,),) = await self._database.rows(
            "lowest", "SELECT MIN(stream_ordering) FROM events WHERE room_id = ?", (room_id,)
        )
        return min(lowest or 0, 0)

    async def _stored_below(self, room_id: str, before: int) -> int:
        ((count,),) = await self._database.rows(
            "stored_below",
            "SELECT COUNT(*) FROM events WHERE room_id = ? AND stream_ordering < ?",
            (room_id, before),
        )
        return int(count)
