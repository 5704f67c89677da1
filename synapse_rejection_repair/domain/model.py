"""What a repair reasons about: events as graph nodes, verdicts, and changes of state."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attr

StateKey = tuple[str, str]
"""The `(type, state_key)` pair under which a room's state holds one event."""

StateIds = Mapping[StateKey, str]
"""A room's state: the event id held under each `(type, state_key)`."""

JsonDict = dict[str, object]


def server_of(user_id: str) -> str:
    """A user's server (everything behind the first colon)."""
    return user_id.partition(":")[2]


class Outcome(str, enum.Enum):
    """What becomes of an event when its checks are run again."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNKNOWN = "unknown"


class Check(str, enum.Enum):
    """The check on receipt of a PDU that an event fails.

    Named after the server-server API, "Checks performed on receipt of a PDU",
    whose numbers are given here.
    """

    VALIDITY = "validity"
    """1: the event is well formed for its room version and within the size limits."""
    SIGNATURE = "signature"
    """2: the event carries a good signature of its sender's server."""
    HASH = "hash"
    """3: the event's id and content are those that were hashed."""
    AUTH_EVENTS = "auth_events"
    """4: the authorization rules, against the event's own auth events."""
    STATE_BEFORE = "state_before"
    """5: the authorization rules, against the state before the event."""
    CURRENT_STATE = "current_state"
    """6: the authorization rules, against the room's current state when the event arrives."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Verdict:
    """The outcome of an event's checks, and for a failure which check and why.

    Attributes:
        outcome: what becomes of the event.
        check: the check that it fails, `None` if it passes.
        error: the reason in Synapse's words, `None` if it passes.
        soft_failed: it passes, but would be soft-failed (check 6 of the specification).
    """

    outcome: Outcome
    check: Check | None = None
    error: str | None = None
    soft_failed: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the event passes."""
        return self.outcome is Outcome.ACCEPT


ACCEPTED = Verdict(Outcome.ACCEPT)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Node:
    """One event of the room as the DAG knows it, without its content.

    Attributes:
        event_id: the event's id.
        type: the event's type.
        state_key: its state key, `None` for an event that is no state event.
        sender: the user who sent it.
        origin_server_ts: when the sender's server says it was made, in milliseconds.
        depth: the depth that the sender's server claims.
        stream_ordering: the order in which this server stored it.
        prev_event_ids: the events that it follows.
        auth_event_ids: the events that it cites as its authority.
        rejected: the reason for which it was rejected, `None` if it was accepted.
        outlier: this server holds no state at the event.
        damaged: it is marked accepted, but rows that Synapse writes for an accepted
            event are missing.
        soft_failed: it is accepted, but hidden from clients (check 6).
    """

    event_id: str
    type: str
    state_key: str | None
    sender: str
    origin_server_ts: int
    depth: int
    stream_ordering: int
    prev_event_ids: tuple[str, ...]
    auth_event_ids: tuple[str, ...]
    rejected: str | None = None
    outlier: bool = False
    damaged: bool = False
    soft_failed: bool = False

    @property
    def key(self) -> StateKey | None:
        """The state that the event sets, `None` if it is no state event."""
        return None if self.state_key is None else (self.type, self.state_key)

    @property
    def server(self) -> str:
        """The server of the event's sender."""
        return server_of(self.sender)


@attr.s(frozen=True, slots=True, auto_attribs=True, order=True)
class StateChange:
    """One entry of the room's current state that a repair changes.

    Attributes:
        type: the event type of the entry.
        state_key: the state key of the entry.
        before: the event id that the entry holds now, `None` if there is none.
        after: the event id that it will hold, `None` if it goes away.
    """

    type: str
    state_key: str
    before: str | None
    after: str | None


def state_changes(before: StateIds, after: StateIds) -> list[StateChange]:
    """The differences between two states of a room, sorted by type and state key."""
    return sorted(
        StateChange(key[0], key[1], before.get(key), after.get(key))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    )
