"""What of an old server's events would arrive, foretold without storing any: the `Forecast`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

from synapse.api.constants import EventTypes
from synapse.events import EventBase
from typing_extensions import override

from synapse_rejection_repair.adapter.admission import Admission, Admitted, SourceKeys
from synapse_rejection_repair.adapter.arrival_checker import ArrivalChecker, as_rejected
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.forecast_states import ForecastStates
from synapse_rejection_repair.domain.imports import Held, Skip, Skipped
from synapse_rejection_repair.domain.media import Redaction
from synapse_rejection_repair.domain.model import StateIds, server_of
from synapse_rejection_repair.domain.source import SourceEvent
from synapse_rejection_repair.domain.state import StateRef
from synapse_rejection_repair.ports import Clock, StateReader
from synapse_rejection_repair.ports_imports import Forecast, Foretold, Source


class ArrivalForecast(Forecast):
    """Runs an import's checks on events of one room, on the states that follow from the source's.

    Args:
        checker: runs the authorization rules.
        admission: verifies events.
        states: resolves states.
        held: tells how this server has events.
        source: the old database.
        clock: lets the server breathe.
        room_id: the room.
        room_version: its version's identifier.
        keys_from: check signatures too, with these keys of the source.
        anew: have the rules decide on what the source has rejected.
    """

    def __init__(
        self,
        checker: EventChecker,
        admission: Admission,
        states: StateReader,
        held: Callable[[Collection[str]], Awaitable[Mapping[str, Held]]],
        source: Source,
        clock: Clock,
        room_id: str,
        room_version: str,
        keys_from: SourceKeys | None,
        anew: bool,
    ) -> None:
        self._events = checker
        self._states = ForecastStates(source, room_id, self._resolve)
        self._checker = ArrivalChecker(checker, self._states.entries)
        self._admission = admission
        self._reader = states
        self._held = held
        self._source = source
        self._clock = clock
        self._room_id = room_id
        self._room_version = room_version
        self._keys_from = keys_from
        self._anew = anew
        self._rejected: set[str] = set()
        self._accepted_anew: set[str] = set()

    @override
    async def inspect(self, events: Sequence[SourceEvent], held: Mapping[str, Held]) -> Foretold:
        here = {i for i, how in held.items() if how.in_full}
        admitted, skipped = await self._admit([e for e in events if e.event_id not in here])
        await self._fetch({i for a in admitted for i in a.event.auth_event_ids()})
        judged = {a.event.event_id: a for a in admitted}
        # Of what is here already, only if a state may differ.
        all_states = self._states.differ or any(e.rejected for e in events)
        groups = await self._source.groups_before(
            events if all_states else [a.source for a in admitted]
        )
        for event in events:
            event_id, group = event.event_id, groups.get(event.event_id)
            one = judged.get(event_id)
            if one is None and event_id not in here:
                self._states.leave_out(event_id)
                continue
            before = await self._states.before(event, group)
            if one is None:
                accepted = held[event_id] is Held.FULL
            else:
                anew = event.rejected and held.get(event_id) is not Held.OUTLIER
                found = await self._failure(one, before, by_source=anew)
                if found is not None:
                    skipped.append(found)
                if found is not None and found.reason is Skip.MISSING_AUTH_EVENTS:
                    self._keep(one, True)
                    self._states.leave_out(event_id)
                    continue
                accepted = found is None
                self._keep(one, not accepted)
                if event_id in held:
                    self._events.decide(event_id, accepted)
            self._states.follow(event, before, group, accepted=accepted)
            await self._clock.breathe()
        bad = {s.event_id for s in skipped}
        arriving = [a for a in admitted if a.event.event_id not in bad]
        pruned = [a.event.event_id for a in arriving if a.pruned]
        return Foretold(skipped, pruned, [r for a in arriving for r in _redactions(a.event)])

    async def _admit(self, events: Sequence[SourceEvent]) -> tuple[list[Admitted], list[Skipped]]:
        return await self._admission.check(
            self._room_id, self._room_version, events, self._keys_from
        )

    async def _failure(
        self, one: Admitted, before: StateRef | None, *, by_source: bool
    ) -> Skipped | None:
        event_id = one.event.event_id
        missing = await self._checker.missing(one.event.auth_event_ids())
        if missing:
            # They may be known and forgotten again.
            await self._fetch(missing)
            missing = await self._checker.missing(missing)
        if missing:
            return Skipped(event_id, Skip.MISSING_AUTH_EVENTS)
        if by_source and not self._anew:
            return Skipped(event_id, Skip.REJECTED_BY_SOURCE)
        verdict = await self._checker.verdict(one.event, before)
        if verdict.accepted:
            return None
        why = Skip.failing(verdict.check, by_source=by_source)
        return Skipped(event_id, why, verdict.error)

    async def _fetch(self, event_ids: Collection[str]) -> None:
        """Has the source's copies of events that are neither stored here nor known yet."""
        missing = await self._checker.missing(event_ids)
        if not missing:
            return
        found = list((await self._source.events(self._room_id, missing)).values())
        admitted, _ = await self._admit(found)
        for one in admitted:
            self._checker.keep(one.event, self._is_rejected(one))

    def _keep(self, one: Admitted, rejected: bool) -> None:
        if rejected:
            self._rejected.add(one.event.event_id)
        elif one.source.rejected:
            self._accepted_anew.add(one.event.event_id)
        self._checker.keep(one.event, rejected)

    def _is_rejected(self, one: Admitted) -> bool:
        event_id = one.event.event_id
        return event_id in self._rejected or (
            one.source.rejected and event_id not in self._accepted_anew
        )

    async def _resolve(self, states: Sequence[StateIds]) -> StateIds:
        """Synapse's state resolution, with the source's copies of what is not stored here."""
        every = {event_id for state in states for event_id in state.values()}
        common = set.intersection(*(set(state.values()) for state in states))
        wanted, unstored = every - common, dict[str, Admitted]()
        while wanted:
            wanted -= (await self._held(wanted)).keys()
            found = list((await self._source.events(self._room_id, wanted)).values())
            admitted, _ = await self._admit(found)
            unstored.update((a.event.event_id, a) for a in admitted)
            wanted = {i for a in admitted for i in a.event.auth_event_ids()} - unstored.keys()
        self._events.known.introduce(
            as_rejected(a.event) if self._is_rejected(a) else a.event for a in unstored.values()
        )
        try:
            return await self._reader.resolve(
                self._room_id, self._room_version, states, self._events
            )
        finally:
            # Some of them may be yet to be decided.
            self._events.known.guests.clear()


def _redactions(event: EventBase) -> Iterator[Redaction]:
    """What an event that the rules let pass redacts: they have marked it for a look at whose."""
    if event.type == EventTypes.Redaction and isinstance(event.redacts, str):
        own_only = event.internal_metadata.need_to_check_redaction()
        yield Redaction(event.redacts, server_of(event.sender), own_only)
