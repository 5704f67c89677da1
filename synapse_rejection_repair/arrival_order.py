"""The order in which a room's old events arrive: whatever the source says, parents first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import attr

from synapse_rejection_repair.domain.arrival import WaitingRoom
from synapse_rejection_repair.domain.imports import Held, Skip, Skipped
from synapse_rejection_repair.domain.source import Position, SourceEvent
from synapse_rejection_repair.ports_imports import ImportTarget, Source

_PAGES_READ = 4
_MOST_READ = 400
"""For how many pages events are read at a time, and how many at most: what is asked of both
databases is then asked once for all of them.
"""


class ArrivalOrder:
    """The events that have to arrive, parents first, in the source's order where that allows it.

    Args:
        source: the old database.
        target: this server.
        room_id: the room.
        after: the position before which everything is decided.
        page: how many events are given at once at most.
    """

    def __init__(
        self, source: Source, target: ImportTarget, room_id: str, after: Position, page: int
    ) -> None:
        self._source = source
        self._target = target
        self._room_id = room_id
        self.page = page
        self._read = after
        self._decided = after
        self._waiting = WaitingRoom()

    async def batches(
        self,
    ) -> AsyncGenerator[tuple[list[SourceEvent], list[Skipped], Position], None]:
        """Batches of events to store, the events skipped since, and what is decided then."""
        while page := await self._source.history(self._room_id, self._read, self._to_read()):
            self._read = page[-1].position
            async for events, skipped in self._sorted(page):
                yield events, skipped, self._decided
        batch = _Batch()
        while len(self._waiting):
            # A cycle, or one that waits for it: possible only where ids are no hashes.
            self._waiting.let_go_one()
            async for full in self._settle(batch):
                yield full, [], self._decided
        yield batch.events, [], self._read

    def _to_read(self) -> int:
        return min(self.page * _PAGES_READ, _MOST_READ)

    async def _sorted(
        self, page: Sequence[SourceEvent]
    ) -> AsyncIterator[tuple[list[SourceEvent], list[Skipped]]]:
        on_page = {e.event_id: e for e in page}
        parents = {e.event_id: _parents(e) for e in page}
        before = {p for some in parents.values() for p in some} - on_page.keys()
        held = await self._target.held({*on_page, *before})
        elsewhere = {p for p in before if p not in held or not held[p].in_full}
        there = await self._source.positions(self._room_id, elsewhere) if elsewhere else {}
        later = {event_id for event_id, position in there.items() if position > self._read}
        batch = _Batch()
        undecided = set(on_page)
        for event in page:
            undecided.discard(event.event_id)
            if not self._decide(batch, event, held.get(event.event_id)):
                unmet = {
                    p
                    for p in parents[event.event_id]
                    if p in later or p in undecided or p in self._waiting
                }
                if unmet:
                    self._waiting.wait(event.event_id, event.position, unmet)
                    continue
                while (full := batch.cut(self.page)) is not None:
                    yield full, []
                batch.events.append(event)
            self._waiting.decided(event.event_id)
            async for full in self._settle(batch):
                yield full, []
        # What waits is read again if the job is taken up from here.
        earliest = self._waiting.earliest()
        self._decided = self._read if earliest is None else earliest.before()
        yield batch.events, batch.skipped

    def _decide(self, batch: _Batch, event: SourceEvent, held: Held | None) -> bool:
        """Takes an event that need not be stored as decided."""
        if held is Held.FULL:
            return True
        if held is Held.REJECTED:
            if not event.rejected:
                batch.skipped.append(Skipped(event.event_id, Skip.REJECTED_HERE))
            return True
        return False

    async def _settle(self, batch: _Batch) -> AsyncIterator[list[SourceEvent]]:
        """Adds the events whose parents are decided now; gives what is full on the way.

        Never are more read than there is room for: behind one depth that lies, all of the
        room's later events may have waited.
        """
        while self._waiting.any_ready():
            while (full := batch.cut(self.page)) is not None:
                yield full
            event_ids = self._waiting.ready(self.page - len(batch.events))
            found = await self._source.events(self._room_id, event_ids)
            batch.events += [found[i] for i in event_ids if i in found]


@attr.s(slots=True, auto_attribs=True)
class _Batch:
    events: list[SourceEvent] = attr.Factory(list)
    skipped: list[Skipped] = attr.Factory(list)

    def cut(self, size: int) -> list[SourceEvent] | None:
        """Takes so many events off, if there are as many."""
        if len(self.events) < size:
            return None
        full, self.events = self.events[:size], self.events[size:]
        return full


def _parents(event: SourceEvent) -> list[str]:
    return [*event.prev_event_ids, *event.auth_event_ids]
