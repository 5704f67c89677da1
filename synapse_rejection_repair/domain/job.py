"""A job in the background: what was asked, how far it is, how it ended."""

from __future__ import annotations

import enum

import attr

from synapse_rejection_repair.domain.model import StateChange
from synapse_rejection_repair.domain.plan import Deliver
from synapse_rejection_repair.domain.scope import Scope


class Status(str, enum.Enum):
    """Where a job stands."""

    SCHEDULED = "scheduled"
    ACTIVE = "active"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self not in (Status.SCHEDULED, Status.ACTIVE)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RepairRequest:
    """What the admin asked for.

    Attributes:
        scope: which events it is about.
        deliver: how clients are told.
        fingerprint: of the dry run that it is bound to, `None` if it is not.
    """

    scope: Scope
    deliver: Deliver
    fingerprint: str | None = None


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Job:
    """A repair of one room, as its row in the module's own table has it.

    Attributes:
        job_id: its id.
        room_id: the room.
        status: where it stands.
        request: what was asked.
        total: how many events it judges (0 until its first plan is made).
        done: how many of them are decided.
        accepted: how many were accepted.
        rejected: how many were left rejected.
        error: why it failed, in a sentence.
        state_changes: how it changes the room's current state.
        created_ts: when it was asked for, in milliseconds.
        started_ts: when it began, in milliseconds.
        finished_ts: when it ended, in milliseconds.
        start_position: the room's newest stream ordering when it began.
        cancel_requested: it is to stop at the next opportunity.
    """

    job_id: str
    room_id: str
    status: Status
    request: RepairRequest
    total: int = 0
    done: int = 0
    accepted: int = 0
    rejected: int = 0
    error: str | None = None
    state_changes: tuple[StateChange, ...] = ()
    created_ts: int = 0
    started_ts: int | None = None
    finished_ts: int | None = None
    start_position: int | None = None
    cancel_requested: bool = False
