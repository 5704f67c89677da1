"""What a repair is asked for, and how far it is."""

from __future__ import annotations

from typing import Any

import attr

from synapse_rejection_repair.domain.borrowed import BorrowedState
from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.job import Job
from synapse_rejection_repair.domain.model import StateChange
from synapse_rejection_repair.domain.scope import Scope


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RepairRequest:
    """What the admin asked for.

    Attributes:
        scope: which events it is about.
        deliver: how clients are told.
        fingerprint: of the dry run that it is bound to, `None` if it is not.
        undoes: the repair that it undoes; `None` if it is a repair itself.
        state_from: the server whose state is taken before events that fail by ours; `None`
            for none.
        borrowed: these states, as they were when the job was made.
        automatic: no admin asked for it.
    """

    scope: Scope
    deliver: Deliver
    fingerprint: str | None = None
    undoes: str | None = None
    state_from: str | None = None
    borrowed: tuple[BorrowedState, ...] = ()
    automatic: bool = False

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it: all."""
        return {
            "event_ids": sorted(self.scope.event_ids),
            "since_ts": self.scope.since_ts,
            "until_ts": self.scope.until_ts,
            "force": sorted(self.scope.force),
            "deliver": self.deliver.value,
            "fingerprint": self.fingerprint,
            "undoes": self.undoes,
            "state_from": self.state_from,
            "borrowed": [one.to_json() for one in self.borrowed],
            "automatic": self.automatic,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RepairRequest:
        """The request that `to_json` gave this for."""
        return cls(
            scope=Scope(
                event_ids=frozenset(value["event_ids"]),
                since_ts=value["since_ts"],
                until_ts=value["until_ts"],
                force=frozenset(value["force"]),
            ),
            deliver=Deliver(value["deliver"]),
            fingerprint=value["fingerprint"],
            undoes=value.get("undoes"),
            state_from=value.get("state_from"),
            borrowed=tuple(BorrowedState.from_json(v) for v in value.get("borrowed", ())),
            automatic=value.get("automatic", False),
        )


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RepairProgress:
    """How far a repair is.

    Attributes:
        total: how many events it judges (0 until its first plan is made).
        done: how many of them are decided.
        accepted: how many were accepted.
        rejected: how many were left rejected.
        fetched: how many events that were missing other servers gave.
        state_changes: how it changes the room's current state.
        start_position: the room's newest stream ordering when it began.
        start_extremities: the room's forward extremities then; `None` if it never began, or
            was done by an earlier version.
    """

    total: int = 0
    done: int = 0
    accepted: int = 0
    rejected: int = 0
    fetched: int = 0
    state_changes: tuple[StateChange, ...] = ()
    start_position: int | None = None
    start_extremities: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it: all."""
        return {
            **attr.asdict(self, filter=lambda field, _: field.name != "state_changes"),
            "state_changes": [attr.astuple(change) for change in self.state_changes],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RepairProgress:
        """The progress that `to_json` gave this for."""
        changes = tuple(StateChange(*change) for change in value["state_changes"])
        extremities = value.get("start_extremities")
        return cls(
            **{
                **value,
                "state_changes": changes,
                "start_extremities": None if extremities is None else tuple(extremities),
            }
        )


RepairJob = Job[RepairRequest, RepairProgress]
