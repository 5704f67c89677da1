"""Storing a batch of events and telling everybody once: Synapse's own door, for batches."""

from __future__ import annotations

from collections.abc import Sequence

from synapse.api.constants import EventTypes, Membership
from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer
from synapse.types import PersistedEventPosition, RoomStreamToken, UserID


class PersistenceDoor:
    """Stores events on the process that writes their room.

    Mirrors `FederationEventHandler.persist_events_and_notify` and `_notify_persisted_event`
    (read in Synapse 1.151.0 and 1.163.2), which wake every listener and every background
    process again for each event of a batch, holding the reactor all the while.

    Args:
        hs: a homeserver process that writes events.
    """

    def __init__(self, hs: HomeServer) -> None:
        persistence = hs.get_storage_controllers().persistence
        assert persistence is not None
        self._persistence = persistence
        self._state = hs.get_storage_controllers().state
        self._notifier = hs.get_notifier()
        self._message_handler = hs.get_message_handler()
        self._ephemeral_messages = hs.config.server.enable_ephemeral_messages
        self._instance_name = hs.get_instance_name()

    async def store(
        self, pairs: Sequence[tuple[EventBase, EventContext]], *, backfilled: bool
    ) -> None:
        """Stores events of one room and tells clients, workers and pushers of them.

        Args:
            pairs: the events with their contexts, parents first.
            backfilled: they are history: nobody is told but the other workers.
        """
        events, position = await self._persistence.persist_events(pairs, backfilled=backfilled)
        self._notifier.notify_replication()
        if self._ephemeral_messages:
            for event in events:
                self._message_handler.maybe_schedule_expiry(event)
        rejected = {event.event_id for event, context in pairs if context.rejected}
        if not backfilled:
            await self._notify([e for e in events if e.event_id not in rejected], position)

    async def _notify(self, events: Sequence[EventBase], position: RoomStreamToken) -> None:
        told = [event for event in events if not event.internal_metadata.is_outlier()]
        members = [event for event in told if event.type == EventTypes.Member]
        await self._notifier.on_new_room_events(
            [(event, self._position(event)) for event in told],
            position,
            extra_users=[UserID.from_string(event.state_key) for event in members],
        )
        for event in members:
            if event.membership == Membership.JOIN:
                self._notifier.notify_user_joined_room(event.event_id, event.room_id)
        for event in told:
            if event.type == EventTypes.ServerACL:
                self._state.get_server_acl_for_room.invalidate((event.room_id,))

    def _position(self, event: EventBase) -> PersistedEventPosition:
        stream_ordering = event.internal_metadata.stream_ordering
        assert stream_ordering is not None
        return PersistedEventPosition(self._instance_name, stream_ordering)
