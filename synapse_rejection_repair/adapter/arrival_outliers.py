"""Events that history cites, and of which not even the old server had the state: outliers."""

from __future__ import annotations

from collections.abc import Collection

from synapse.api.constants import RejectedReason
from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer

from synapse_rejection_repair.adapter.admission import Admission, Admitted, SourceKeys
from synapse_rejection_repair.adapter.arrival_checker import ArrivalChecker, node_of
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.dag import in_order
from synapse_rejection_repair.domain.model import Check, Outcome
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import Source

_AT_ONCE = 200
"""How many events are brought at once, besides those that they cite in turn."""


class ArrivalOutliers:
    """Brings what history cites.

    Args:
        hs: a homeserver process that writes events.
        admission: verifies events.
        checker: runs the authorization rules.
        source: the old database.
        clock: lets the server breathe.
        room_id: the room.
        room_version: its version's identifier.
        keys_from: check signatures too, with these keys of the source.
    """

    def __init__(
        self,
        hs: HomeServer,
        admission: Admission,
        checker: ArrivalChecker,
        source: Source,
        clock: Clock,
        room_id: str,
        room_version: str,
        keys_from: SourceKeys | None,
    ) -> None:
        self._storage = hs.get_storage_controllers()
        self._federation = hs.get_federation_event_handler()
        self._admission = admission
        self._checker = checker
        self._source = source
        self._clock = clock
        self._room_id = room_id
        self._room_version = room_version
        self._keys_from = keys_from

    async def bring(self, event_ids: Collection[str]) -> list[str]:
        """Stores events, with what they cite, as outliers; gives those that cannot be had.

        They are part of a state at which the source has a gap, or cited by an event after
        it: the source itself has no state at them.
        """
        brought, unavailable = set[str](), list[str]()
        # Not at once: they may be the whole state of a large room.
        for some in batches(event_ids, _AT_ONCE):
            unavailable += await self._bring([i for i in some if i not in brought], brought)
        return unavailable

    async def _bring(self, event_ids: Collection[str], brought: set[str]) -> list[str]:
        wanted, found = set(event_ids), dict[str, Admitted]()
        unavailable: set[str] = set()
        while wanted:
            events = await self._source.events(self._room_id, wanted)
            admitted, _ = await self._admission.check(
                self._room_id, self._room_version, list(events.values()), self._keys_from
            )
            had = {a.event.event_id: a for a in admitted}
            unavailable |= wanted - had.keys()
            found.update(had)
            cited = {i for a in admitted for i in a.event.auth_event_ids()} - found.keys()
            wanted = set(await self._checker.missing(cited - unavailable))

        pairs: list[tuple[EventBase, EventContext]] = []
        for node in in_order({i: node_of(a.event) for i, a in found.items()}):
            event = found[node.event_id].event
            event.internal_metadata.outlier = True
            verdict = await self._checker.verdict(event, None)
            if verdict.outcome is Outcome.UNKNOWN or verdict.check is Check.VALIDITY:
                unavailable.add(node.event_id)
                continue
            await self._clock.breathe()
            context = EventContext.for_outlier(self._storage)
            if not verdict.accepted:
                context.rejected = RejectedReason.AUTH_ERROR
            self._checker.keep_unstored(event, not verdict.accepted)
            brought.add(node.event_id)
            pairs.append((event, context))
        if pairs:
            await self._federation.persist_events_and_notify(self._room_id, pairs, backfilled=True)
        self._checker.stored()
        return [i for i in event_ids if i in unavailable]
