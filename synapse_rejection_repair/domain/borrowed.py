"""The state before an event as another server has it, kept as what differs from ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import attr

from synapse_rejection_repair.domain.model import StateChange, StateIds, state_changes


@attr.s(frozen=True, slots=True, auto_attribs=True)
class BorrowedState:
    """The state before one event, taken from another server.

    Attributes:
        event_id: the event.
        difference: what it changes against the state that is before the event here.
        digest: of the whole state, entry by entry.
    """

    event_id: str
    difference: tuple[StateChange, ...]
    digest: str

    def over(self, ours: StateIds) -> StateIds | None:
        """The whole state, given ours; `None` if ours is not what it was then."""
        theirs = dict(ours)
        for change in self.difference:
            key = change.type, change.state_key
            if change.after is None:
                theirs.pop(key, None)
            else:
                theirs[key] = change.after
        return theirs if _digest(theirs) == self.digest else None

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it: all."""
        return {
            "event_id": self.event_id,
            "difference": [attr.astuple(change) for change in self.difference],
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BorrowedState:
        """The state that `to_json` gave this for."""
        changes = tuple(StateChange(*change) for change in value["difference"])
        return cls(value["event_id"], changes, value["digest"])


def borrow(event_id: str, ours: StateIds, theirs: StateIds) -> BorrowedState:
    """What there is to keep of the state before an event elsewhere.

    Args:
        event_id: the event.
        ours: the state before it here.
        theirs: the state before it there.
    """
    return BorrowedState(event_id, tuple(state_changes(ours, theirs)), _digest(theirs))


def digests(borrowed: Iterable[BorrowedState]) -> list[list[str]]:
    """What binds a plan to the states that were borrowed for it."""
    return sorted([one.event_id, one.digest] for one in borrowed)


def _digest(state: StateIds) -> str:
    entries = sorted((*key, event_id) for key, event_id in state.items())
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
