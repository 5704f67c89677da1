"""What becomes of each event that arrives, and the state that it has here."""

from __future__ import annotations

from collections.abc import Mapping

import attr
from synapse.api.constants import EventTypes, RejectedReason
from synapse.events.snapshot import EventContext

from synapse_rejection_repair.adapter.admission import Admitted
from synapse_rejection_repair.adapter.arrival_checker import ArrivalChecker
from synapse_rejection_repair.adapter.arrival_outliers import ArrivalOutliers
from synapse_rejection_repair.adapter.arrival_states import ArrivalStates
from synapse_rejection_repair.adapter.rooms import SynapseRooms
from synapse_rejection_repair.domain.imports import Skip, Skipped
from synapse_rejection_repair.domain.model import Check
from synapse_rejection_repair.ports_imports import Source


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Arriving:
    """An event that is to be stored.

    Attributes:
        admitted: the event.
        context: the state that it is stored with.
        skipped: why it is stored as rejected; `None` if it is accepted.
    """

    admitted: Admitted
    context: EventContext
    skipped: Skipped | None = None

    def as_rejected(self, reason: Skip, error: str | None = None) -> Arriving:
        """The same, to be stored as rejected.

        Args:
            reason: why.
            error: more about it, in a sentence.
        """
        self.context.rejected = RejectedReason.AUTH_ERROR
        skipped = Skipped(self.admitted.event.event_id, reason, error)
        return attr.evolve(self, skipped=skipped)


class ArrivalJudge:
    """Decides on events of one room, parents first.

    Args:
        checker: runs the authorization rules.
        states: gives events their contexts.
        outliers: brings what is cited, and was never in the source's history.
        rooms: knows which events are here.
        source: the old database.
        room_id: the room.
        anew: have the rules decide on what the source has rejected.
    """

    def __init__(
        self,
        checker: ArrivalChecker,
        states: ArrivalStates,
        outliers: ArrivalOutliers,
        rooms: SynapseRooms,
        source: Source,
        room_id: str,
        anew: bool,
    ) -> None:
        self._checker = checker
        self._states = states
        self._outliers = outliers
        self._rooms = rooms
        self._source = source
        self._room_id = room_id
        self._anew = anew

    async def decide(
        self, admitted: Admitted, pending: Mapping[str, Arriving], *, accepted: bool
    ) -> Arriving | Skipped | None:
        """What becomes of an event.

        Args:
            admitted: the event.
            pending: the events before it that are decided, and not stored yet, by id.
            accepted: this server holds it as an outlier that it has accepted: its states may
                hold it, whatever the source says of it.

        Returns:
            How it is stored, or why it is not; `None` if what is pending has to be stored
            before that can be told.
        """
        event = admitted.event
        missing = await self._checker.missing(
            [i for i in event.auth_event_ids() if i not in pending]
        )
        if missing:
            if pending:
                return None
            missing = await self._outliers.bring(missing)
        if missing:
            why = f"Not to be had: {', '.join(missing)}"
            return Skipped(event.event_id, Skip.MISSING_AUTH_EVENTS, why)
        context = await self._context(admitted, pending)
        if context is None:
            return None if pending else Skipped(event.event_id, Skip.UNKNOWN_STATE)
        arriving = Arriving(admitted, context)
        by_source = admitted.source.rejected and not accepted
        if by_source and not self._anew:
            return arriving.as_rejected(Skip.REJECTED_BY_SOURCE)
        verdict = await self._checker.verdict(event, context.state_group_before_event)
        if verdict.accepted:
            return arriving
        if verdict.check is Check.VALIDITY:
            return Skipped(event.event_id, Skip.MALFORMED, verdict.error)
        why = Skip.failing(verdict.check, by_source=by_source)
        return arriving.as_rejected(why, verdict.error)

    async def _context(
        self, admitted: Admitted, pending: Mapping[str, Arriving]
    ) -> EventContext | None:
        event = admitted.event
        prevs = event.prev_event_ids()
        groups = self._states.groups(prevs)
        if len(groups) == len(set(prevs)) and (prevs or event.type == EventTypes.Create):
            resolves = len(set(groups.values())) > 1
            if resolves and any(one.admitted.event.is_state() for one in pending.values()):
                return None
            return await self._states.after(event, groups)
        return None if pending else await self._context_at_gap(admitted)

    async def _context_at_gap(self, admitted: Admitted) -> EventContext | None:
        """The state at an event that follows events that nobody has, as the source has it."""
        cited = list((await self._source.state_before(admitted.source)).values())
        unknown = await self._rooms.unknown_events(self._room_id, cited)
        lost = set(await self._outliers.bring(unknown))
        # Under what they are, not under what the source says that they are.
        state = await self._rooms.state_of([i for i in cited if i not in lost])
        return await self._states.given(admitted.event, state) if state else None
