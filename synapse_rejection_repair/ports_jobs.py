"""What jobs are kept by, carried out by and counted by: the Protocols of the background."""

from __future__ import annotations

from typing import Protocol

from synapse_rejection_repair.domain.job import Job, Progress, Request, Status
from synapse_rejection_repair.domain.listing import Listing, Page


class JobStore(Protocol[Request, Progress]):
    """Keeps jobs of one kind in the module's own tables."""

    async def create(self, room_id: str, request: Request) -> Job[Request, Progress]:
        """A new job.

        Raises:
            JobRunning: the room has one, of whatever kind, that is not over.
        """

    async def get(self, job_id: str) -> Job[Request, Progress]:
        """The job.

        Raises:
            UnknownJob: there is none of that id and kind.
        """

    async def page(
        self, page: Page, room_id: str | None, status: Status | None
    ) -> Listing[Job[Request, Progress]]:
        """The jobs, of one room or status where given."""

    async def unfinished(self) -> list[Job[Request, Progress]]:
        """The jobs that are not over in rooms whose events this process writes."""

    async def begin(self, job_id: str) -> Job[Request, Progress] | None:
        """Takes a job up that is scheduled or was left; `None` if it is over.

        It is active then, so that it does not end by being cancelled alone.

        Raises:
            UnknownJob: there is none of that id and kind.
        """

    async def save(self, job: Job[Request, Progress]) -> Job[Request, Progress]:
        """Writes a job's progress or end; gives it back with any request to cancel it."""

    async def cancel_requested(self, job_id: str) -> bool:
        """Whether the job has been asked to stop."""

    async def cancel(self, job_id: str) -> Job[Request, Progress]:
        """Ends a job that has not begun, or asks one to stop at the next opportunity.

        Raises:
            UnknownJob: there is none of that id and kind.
            JobOver: it has ended.
        """

    async def journalled(self, job_id: str, action: str) -> frozenset[str]:
        """The events that the job has done something with so far, as its journal has them."""


class Runner(Protocol[Request, Progress]):
    """Carries jobs of one kind out."""

    @property
    def kind(self) -> str:
        """What the log calls the jobs."""

    async def run(self, job: Job[Request, Progress]) -> Job[Request, Progress]:
        """Carries a job out, until it is complete or cancelled; gives it as it is then.

        Raises:
            RepairError: it has failed.
        """

    def outcome(self, job: Job[Request, Progress]) -> str:
        """What has come of a job, for the log."""


class Meter(Protocol[Request, Progress]):
    """Counts jobs of one kind."""

    def begun(self) -> None:
        """A job runs here now."""

    def stopped(self) -> None:
        """A job runs here no more."""

    def ended(self, job: Job[Request, Progress]) -> None:
        """A job is over."""
