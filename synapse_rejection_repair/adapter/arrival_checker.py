"""Checking events that arrive: not stored yet, or not in full."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from synapse.api.constants import EventTypes, RejectedReason
from synapse.api.errors import AuthError, EventSizeError
from synapse.event_auth import validate_event_for_room_version
from synapse.events import EventBase, make_event_from_dict
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer
from synapse.types.state import StateFilter

from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.integrity import IntegrityCheck
from synapse_rejection_repair.domain.model import (
    ACCEPTED,
    Check,
    Node,
    Outcome,
    StateIds,
    StateKey,
    Verdict,
)
from synapse_rejection_repair.ports import Clock, StateLookup

_REMEMBERED_CASES = 10_000
"""How many outcomes of the authorization rules are kept in memory."""


class ArrivalChecker(EventChecker):
    """Checks events of one room that are not stored yet, or not in full.

    Args: as for `EventChecker`.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        integrity: IntegrityCheck,
        clock: Clock,
        room_id: str,
        room_version: str,
    ) -> None:
        super().__init__(hs, database, integrity, clock, room_id, room_version)
        self._allowed: OrderedDict[_Case, None] = OrderedDict()

    async def verdict(self, event: EventBase, context: EventContext | None) -> Verdict:
        """The verdict on an event, which need not be stored.

        Args:
            event: the event.
            context: the state at it; `None` for an outlier, which has none.
        """
        case = _case(event, context)
        if case is not None and case in self._allowed:
            self._allowed.move_to_end(case)
            return _validity(event)
        self._batch = {event.event_id: event}
        self._broken = {}
        lookup = None if context is None else _lookup(context)
        verdict = await self.check(node_of(event), lookup, force=False)
        if case is not None and verdict.accepted:
            self._allowed[case] = None
            while len(self._allowed) > _REMEMBERED_CASES:
                self._allowed.popitem(last=False)
        return verdict

    def keep(self, event: EventBase, rejected: bool) -> None:
        """Takes an event as decided, and ready to be cited, before it is stored."""
        if not event.is_state():
            return
        if rejected:
            event = make_event_from_dict(
                event.get_pdu_json(), event.room_version, rejected_reason=RejectedReason.AUTH_ERROR
            )
        self._remembered[event.event_id] = event
        self._remembered.move_to_end(event.event_id)


_Case = tuple[str, str, tuple[str, ...], int]


def _case(event: EventBase, context: EventContext | None) -> _Case | None:
    """What the authorization rules look at of a message; `None` where they look at more.

    Of an event that is neither state nor a redaction, the rules see nothing but who sent
    it, its type, and the events that they are run against ("Authorization rules" of the
    room versions).
    """
    if context is None or context.state_group_before_event is None:
        return None
    if event.is_state() or event.type == EventTypes.Redaction:
        return None
    group = context.state_group_before_event
    return (event.type, event.sender, tuple(event.auth_event_ids()), group)


def _validity(event: EventBase) -> Verdict:
    try:
        validate_event_for_room_version(event)
    except (AuthError, EventSizeError) as e:
        return Verdict(Outcome.REJECT, Check.VALIDITY, e.msg)
    return ACCEPTED


def node_of(event: EventBase) -> Node:
    """An event as the domain sees it, without its place in the DAG."""
    return Node(
        event_id=event.event_id,
        type=event.type,
        state_key=event.get_state_key(),
        sender=event.sender,
        origin_server_ts=event.origin_server_ts,
        depth=event.depth,
        stream_ordering=event.depth,
        prev_event_ids=(),
        auth_event_ids=tuple(event.auth_event_ids()),
    )


def _lookup(context: EventContext) -> StateLookup:
    async def lookup(keys: Collection[StateKey]) -> StateIds:
        return await context.get_prev_state_ids(StateFilter.from_types(keys))

    return lookup
