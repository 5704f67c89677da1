"""What stands against undoing a repair; `rest.errors` makes it HTTP."""

from __future__ import annotations

import attr

from synapse_rejection_repair.errors import RepairError


@attr.s(auto_exc=True, auto_attribs=True)
class NotStoppable(RepairError):
    """The job undoes a repair, which is done in whole or not at all."""

    job_id: str

    def __str__(self) -> str:
        return f"Job {self.job_id} undoes a repair, and does so to its end: half of it is no state"


@attr.s(auto_exc=True, auto_attribs=True)
class NotUndoable(RepairError):
    """A job that cannot be undone by its nature."""

    job_id: str

    def __str__(self) -> str:
        return f"Job {self.job_id} undid a repair itself: repair the room again instead"


@attr.s(auto_exc=True, auto_attribs=True)
class NotOver(RepairError):
    """A repair that still runs cannot be undone."""

    job_id: str

    def __str__(self) -> str:
        return f"Repair {self.job_id} is not over: cancel it first"


@attr.s(auto_exc=True, auto_attribs=True)
class BuiltUpon(RepairError):
    """Events were accepted since that build on what a repair let in."""

    job_id: str
    event_ids: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"Repair {self.job_id} cannot be undone: {len(self.event_ids)} events that were"
            f" accepted since build on what it let in, such as {self.event_ids[0]}"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class EventsGone(RepairError):
    """Events that a repair has dealt with were purged since."""

    job_id: str
    event_ids: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"Repair {self.job_id} cannot be undone: {len(self.event_ids)} events that it dealt"
            " with are no longer stored as part of the room's history, such as"
            f" {self.event_ids[0]}"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class NothingLeft(RepairError):
    """But for what a repair let in, nothing is left of a room."""

    job_id: str

    def __str__(self) -> str:
        return (
            f"Repair {self.job_id} cannot be undone: the room would be left without any accepted"
            " event to go on from"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class StateGone(RepairError):
    """States that events had before a repair are no longer in the database."""

    job_id: str
    event_ids: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"Repair {self.job_id} cannot be undone: the state groups that {len(self.event_ids)}"
            f" events had before it are no longer stored, such as that of {self.event_ids[0]}"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class JournalGone(RepairError):
    """What a repair did is no longer in the journal."""

    job_id: str

    def __str__(self) -> str:
        return (
            f"Repair {self.job_id} cannot be undone: what was there before it has been deleted"
            " from the journal"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class AlreadyUndone(RepairError):
    """A repair that was undone before."""

    job_id: str
    undone_by: str

    def __str__(self) -> str:
        return f"Repair {self.job_id} has been undone already, by {self.undone_by}"


@attr.s(auto_exc=True, auto_attribs=True)
class TouchedSince(RepairError):
    """A later job has changed what a repair did."""

    job_id: str
    later: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"Repair {self.job_id} cannot be undone: later jobs have dealt with the same"
            f" events: {', '.join(self.later)}"
        )
