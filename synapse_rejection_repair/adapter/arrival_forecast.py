"""What of an old server's events would arrive, foretold without storing any: the `Forecast`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from typing_extensions import override

from synapse_rejection_repair.adapter.admission import Admission, Admitted, SourceKeys
from synapse_rejection_repair.adapter.arrival_checker import ArrivalChecker
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.domain.imports import Skip, Skipped
from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.source import SourceEvent
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import Forecast, Source


class ArrivalForecast(Forecast):
    """Runs an import's checks on events of one room, on the states that the source has.

    Args:
        checker: runs the authorization rules.
        admission: verifies events.
        source: the old database.
        clock: lets the server breathe.
        room_id: the room.
        room_version: its version's identifier.
        keys_from: check signatures too, with these keys of the source.
    """

    def __init__(
        self,
        checker: EventChecker,
        admission: Admission,
        source: Source,
        clock: Clock,
        room_id: str,
        room_version: str,
        keys_from: SourceKeys | None,
    ) -> None:
        self._checker = ArrivalChecker(checker, self._entries)
        self._admission = admission
        self._source = source
        self._clock = clock
        self._room_id = room_id
        self._room_version = room_version
        self._keys_from = keys_from
        self._rejected: set[str] = set()

    @override
    async def inspect(self, events: Sequence[SourceEvent]) -> tuple[list[Skipped], list[str]]:
        admitted, skipped = await self._admit(events)
        await self._fetch({i for a in admitted for i in a.event.auth_event_ids()})
        before = await self._source.groups_before([a.source for a in admitted])
        for one in admitted:
            found = await self._failure(one, before)
            if found is not None:
                skipped.append(found)
            self._keep(one, found is not None)
            await self._clock.breathe()
        bad = {s.event_id for s in skipped}
        return skipped, [
            a.event.event_id for a in admitted if a.pruned and a.event.event_id not in bad
        ]

    async def _admit(self, events: Sequence[SourceEvent]) -> tuple[list[Admitted], list[Skipped]]:
        return await self._admission.check(
            self._room_id, self._room_version, events, self._keys_from
        )

    async def _failure(self, one: Admitted, before: Mapping[str, int]) -> Skipped | None:
        event_id = one.event.event_id
        missing = await self._checker.missing(one.event.auth_event_ids())
        if missing:
            # They may be known and forgotten again.
            await self._fetch(missing)
            missing = await self._checker.missing(missing)
        if missing:
            return Skipped(event_id, Skip.MISSING_AUTH_EVENTS)
        verdict = await self._checker.verdict(one.event, before.get(event_id))
        if verdict.accepted:
            return None
        return Skipped(event_id, Skip.failing(verdict.check), verdict.error)

    async def _fetch(self, event_ids: Collection[str]) -> None:
        """Has the source's copies of events that are neither stored here nor known yet."""
        missing = await self._checker.missing(event_ids)
        if not missing:
            return
        found = list((await self._source.events(self._room_id, missing)).values())
        admitted, _ = await self._admit(found)
        for one in admitted:
            self._keep(one, one.source.rejected or one.event.event_id in self._rejected)

    def _keep(self, one: Admitted, rejected: bool) -> None:
        if rejected:
            self._rejected.add(one.event.event_id)
        self._checker.keep(one.event, rejected)

    async def _entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        return await self._source.entries(group, keys)
