"""Checking events that arrive: not stored yet, or not in full."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection

from synapse.api.constants import EventTypes, RejectedReason
from synapse.events import EventBase, make_event_from_dict

from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.domain.model import (
    ACCEPTED,
    Node,
    StateIds,
    StateKey,
    Verdict,
)
from synapse_rejection_repair.domain.remembering import forget_oldest

_REMEMBERED_CASES = 2_000
"""How many outcomes of the authorization rules are kept in memory."""

_LOOKED_INTO = frozenset(
    {
        EventTypes.Aliases,
        EventTypes.Create,
        EventTypes.Member,
        EventTypes.PowerLevels,
        EventTypes.Redaction,
        EventTypes.ThirdPartyInvite,
    }
)
"""The types that have rules of their own. Of other events that are no state, the rules see nothing
but who sent them, their type, and the events that they are run against ("Authorization rules" of
the room versions).
"""

Entries = Callable[[int, Collection[StateKey]], Awaitable[StateIds]]

_Case = tuple[str, str, tuple[str, ...], object]


class ArrivalChecker:
    """Runs the authorization rules on events that `Admission` has let pass.

    Args:
        checker: runs the rules on whatever event.
        entries: gives some entries of the state of a state group.
    """

    def __init__(self, checker: EventChecker, entries: Entries) -> None:
        self._checker = checker
        self._entries = entries
        self._allowed: OrderedDict[_Case, None] = OrderedDict()

    async def verdict(self, event: EventBase, group: int | None) -> Verdict:
        """The verdict on an event, which need not be stored.

        Args:
            event: the event.
            group: the state group before it; `None` for an outlier, which has none.
        """
        if group is None:
            self._checker.take(event)
            return await self._checker.check(node_of(event), None, force=False)

        async def lookup(keys: Collection[StateKey]) -> StateIds:
            return await self._entries(group, keys)

        seen = (event.type, event.sender, tuple(event.auth_event_ids()))
        alike = not event.is_state() and event.type not in _LOOKED_INTO
        if alike and (*seen, group) in self._allowed:
            return ACCEPTED
        self._checker.take(event)
        node = node_of(event)
        if not alike:
            return await self._checker.check(node, lookup, force=False)
        state = await lookup(self._checker.auth_keys(node))
        against = (*seen, frozenset(state.items()))
        if against not in self._allowed:
            verdict = await self._checker.check(node, lookup, force=False)
            if not verdict.accepted:
                return verdict
        for case in (against, (*seen, group)):
            self._allowed[case] = None
            self._allowed.move_to_end(case)
        forget_oldest(self._allowed, _REMEMBERED_CASES)
        return ACCEPTED

    def keep(self, event: EventBase, rejected: bool) -> None:
        """Takes an event as decided, and ready to be cited, as long as it is remembered."""
        if event.is_state():
            self._checker.known.remember(as_rejected(event) if rejected else event)

    def keep_unstored(self, event: EventBase, rejected: bool) -> None:
        """Takes an event as decided, and ready to be cited, before it is stored."""
        if event.is_state():
            self._checker.known.pin(as_rejected(event) if rejected else event)

    def stored(self) -> None:
        """All that was kept is stored."""
        self._checker.known.unpin()

    def forget(self, event_id: str) -> None:
        """Takes an event that was kept as one that nobody has."""
        self._checker.known.forget(event_id)

    async def missing(self, event_ids: Collection[str]) -> list[str]:
        """Those of the events that are neither stored, as whatever, nor kept."""
        found = await self._checker.known.read(event_ids)
        return [i for i in event_ids if i not in found]


def as_rejected(event: EventBase) -> EventBase:
    """A copy of an event that failed the authorization rules."""
    return make_event_from_dict(
        event.get_pdu_json(), event.room_version, rejected_reason=RejectedReason.AUTH_ERROR
    )


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
