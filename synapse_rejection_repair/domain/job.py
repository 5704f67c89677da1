"""A job in the background: what was asked, how far it is, how it ended."""

from __future__ import annotations

import enum
from typing import Any, Generic, Protocol, TypeVar

import attr
from typing_extensions import Self


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


class Record(Protocol):
    """A part of a job that its row keeps as JSON."""

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it: all."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The record that `to_json` gave this for."""


Request = TypeVar("Request", bound=Record)
Progress = TypeVar("Progress", bound=Record)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Job(Generic[Request, Progress]):
    """Work on one room, as its row in the module's own table has it.

    Attributes:
        job_id: its id.
        room_id: the room.
        status: where it stands.
        request: what was asked.
        progress: how far it is.
        error: why it failed, in a sentence.
        created_ts: when it was asked for, in milliseconds.
        started_ts: when it began, in milliseconds.
        finished_ts: when it ended, in milliseconds.
        cancel_requested: it is to stop at the next opportunity.
    """

    job_id: str
    room_id: str
    status: Status
    request: Request
    progress: Progress
    error: str | None = None
    created_ts: int = 0
    started_ts: int | None = None
    finished_ts: int | None = None
    cancel_requested: bool = False

    def begun(self, now_ms: int) -> Self:
        """The job once it is carried out, or once again, from a time in milliseconds on."""
        return attr.evolve(self, status=Status.ACTIVE, started_ts=self.started_ts or now_ms)

    def with_progress(self, **changes: Any) -> Self:
        """The job with some attributes of its progress changed."""
        progress: Any = self.progress
        return attr.evolve(self, progress=attr.evolve(progress, **changes))
