"""What processes remember of resolved state, which they are to forget where events change sides."""

from __future__ import annotations

from typing import Any, cast

from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.util.caches.descriptors import CachedFunction


class ResolvedStates:
    """How a process has resolved conflicts between states.

    What Synapse's `StateResolutionHandler` remembers of that goes by the numbers of state groups
    (`_state_cache`) and by the ids of events (`_conflict_resolution_cache`, read in Synapse
    1.163.2; 1.151.0 has none), whatever becomes of the events, and for an hour after each
    use. Any process resolves states: one that clients send events to does so for each
    event that merges branches, and its outcome is stored.

    The server ACLs (`StateStorageController.get_server_acl_for_room`) are forgotten along with
    it. Synapse 1.151.0 has the other processes forget them when such an event is sent, which may be
    long before it is part of the current state; 1.163.2 also does when the current state changes.

    So is whom an event joins to a room (`RoomMemberWorkerStore.
    _get_user_ids_from_membership_event_ids`, read in both): nobody, as long as its row in
    `room_memberships` was lacking. Synapse never forgets that.

    So every process makes it known to Synapse by a name, as one more cache that the stream of
    cache invalidations can tell it to empty.

    Args:
        hs: the homeserver.
    """

    __name__ = "rejection_repair_resolved_states"

    def __init__(self, hs: HomeServer) -> None:
        resolution = hs.get_state_resolution_handler()
        names = ("_state_cache", "_conflict_resolution_cache")
        self._remembered: list[Any] = [
            getattr(resolution, name) for name in names if hasattr(resolution, name)
        ]
        self._server_acls = hs.get_storage_controllers().state.get_server_acl_for_room
        # Typed as what Synapse's caching decorators make, of which it takes two methods and a name.
        self._as_cache = cast("CachedFunction[Any]", self)
        self._store = hs.get_datastores().main
        self._store.register_external_cached_function(self.__name__, self._as_cache)

    def forget(self, txn: LoggingTransaction) -> None:
        """Has all processes forget it, once a transaction is committed.

        Args:
            txn: the transaction, in which events are accepted or rejected.
        """
        self._store._invalidate_all_cache_and_stream(txn, self._as_cache)

    def invalidate_all(self) -> None:
        """Forgets it, on this process alone."""
        for cache in self._remembered:
            # `ExpiringCache` keeps no more about its entries than them.
            cache._cache.clear()
        self._server_acls.invalidate_all()
        # It is there under this name once Synapse has asked.
        joined = getattr(self._store, "_get_joined_profile_from_event_id", None)
        if joined is not None:
            joined.invalidate_all()
