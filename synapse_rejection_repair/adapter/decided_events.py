"""The events that others cite, as a plan or an import has decided on them so far."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import suppress

from synapse.api.errors import SynapseError
from synapse.api.room_versions import RoomVersion
from synapse.events import EventBase

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.stored_events import read_stored
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.references import is_id
from synapse_rejection_repair.domain.remembering import forget_oldest

_REMEMBERED = 2000
"""How many events are kept in memory."""
_DECODED_AT_ONCE = 100
"""How many events are decoded before everything else runs: that many take about 5 ms."""


class DecidedEvents:
    """Gives events, each of them accepted or rejected as was decided, or else as it is stored.

    Args:
        database: Synapse's.
        version: the room's version.
    """

    def __init__(self, database: Database, version: RoomVersion) -> None:
        self.guests: dict[str, EventBase] = {}
        self._database = database
        self._version = version
        self._decided: dict[str, bool] = {}
        self._remembered: OrderedDict[str, EventBase] = OrderedDict()
        self._pinned: dict[str, EventBase] = {}

    def decide(self, event_id: str, accepted: bool) -> None:
        """Takes an event as accepted or as rejected from now on."""
        self._decided[event_id] = accepted
        self._remembered.pop(event_id, None)

    def remember(self, event: EventBase) -> None:
        """Takes an event that is not stored yet as one that can be cited."""
        self._remembered[event.event_id] = event
        self._remembered.move_to_end(event.event_id)

    def pin(self, event: EventBase) -> None:
        """As `remember`, for one that can be read nowhere else: it is kept until `unpin`."""
        self._pinned[event.event_id] = event

    def unpin(self) -> None:
        """All that was pinned is stored: what is forgotten of it can be read again."""
        self._remembered.update(self._pinned)
        self._pinned.clear()

    def forget(self, event_id: str) -> None:
        """Takes an event that was remembered for one that is not there, unless it is stored."""
        self._remembered.pop(event_id, None)
        self._pinned.pop(event_id, None)

    def introduce(self, events: Iterable[EventBase]) -> None:
        """Makes events known that are not stored."""
        self.guests.update((event.event_id, event) for event in events)

    async def read(self, event_ids: Collection[str]) -> dict[str, EventBase]:
        """Some events by id; unknown ids are left out."""
        found: dict[str, EventBase] = {}
        missing = []
        for event_id in event_ids:
            event = self.guests.get(event_id) or self._pinned.get(event_id)
            if event is None and event_id in self._remembered:
                event = self._remembered[event_id]
                self._remembered.move_to_end(event_id)
            if event is not None:
                found[event_id] = event
            elif is_id(event_id):
                missing.append(event_id)
        for some in batches(missing, _DECODED_AT_ONCE):
            for stored in await read_stored(self._database, some):
                accepted = self._decided.get(stored.event_id, stored.reason is None)
                with suppress(SynapseError):
                    event = stored.as_decided(self._version, accepted)
                    found[stored.event_id] = self._remembered[stored.event_id] = event
        forget_oldest(self._remembered, _REMEMBERED)
        return {event_id: found[event_id] for event_id in event_ids if event_id in found}

    async def accepted(self, event_ids: Collection[str]) -> list[EventBase]:
        """Those of the events that are known, and accepted so far."""
        events = await self.read(event_ids)
        return [e for e in events.values() if e.rejected_reason is None]
