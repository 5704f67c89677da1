"""What undoing asks of the outer layers: the Protocols that `adapter` implements."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from synapse_rejection_repair.domain.repair import RepairJob
from synapse_rejection_repair.domain.undo import Done
from synapse_rejection_repair.errors import RepairError


class UndoReader(Protocol):
    """Reads what a repair did, and what came after it. Never writes."""

    async def journal(self, job_id: str) -> list[tuple[str, str]]:
        """What the repair did: the events, each with an action."""

    async def later_jobs(self, repair: RepairJob, event_ids: Collection[str]) -> list[str]:
        """The jobs that have dealt with some of the events since the repair began."""

    async def undone_by(self, repair: RepairJob) -> str | None:
        """The job that has undone the repair; `None` if there is none."""

    async def stateless(self, repair: RepairJob, events: Done) -> list[str]:
        """The events whose states from before the repair are no longer stored."""

    async def obstacle(self, repair: RepairJob, events: Done) -> RepairError | None:
        """What of the room as it is now stands against putting the events back, if anything.

        Returns:
            `EventsGone`, `NothingLeft`, `BuiltUpon`, or `None`.
        """


class UndoWriter(Protocol):
    """Puts events back as they were, on the process that writes their room."""

    async def undo(self, job: RepairJob, repair: RepairJob, events: Done) -> None:
        """Puts a repair's events back, and brings the room in line.

        Args:
            job: the job that does it.
            repair: the repair that is undone.
            events: what it did with the events that are still to be put back.

        Raises:
            RepairError: something stands against it by now, as `UndoReader.obstacle` says.
                Nothing is put back then.
        """
