"""What can go wrong with a request or a job; `rest.errors` makes it HTTP."""

from __future__ import annotations

from collections.abc import Sequence

import attr

_NAMED = 10
"""How many events an error names at most."""


def first_of(event_ids: Sequence[str]) -> str:
    """Some events by name, and how many more there are: a request may be about a thousand."""
    more = len(event_ids) - _NAMED
    return ", ".join(event_ids[:_NAMED]) + (f" and {more} more" if more > 0 else "")


@attr.s(auto_exc=True, auto_attribs=True)
class RepairError(Exception):
    """The base of everything that this module refuses or fails at.

    As a string it is one sentence that says what is wrong and, where possible, what to do.

    Not frozen: Synapse's `ObservableDeferred` sets an attribute of what it hands on, and nobody
    would hear of an error that does not let it.
    """


@attr.s(auto_exc=True, auto_attribs=True)
class InvalidParam(RepairError):
    """A parameter that is understood as JSON but makes no sense."""

    param: str
    reason: str

    def __str__(self) -> str:
        return f"'{self.param}' {self.reason}"


@attr.s(auto_exc=True, auto_attribs=True)
class UnknownRoom(RepairError):
    """This server has never heard of the room."""

    room_id: str

    def __str__(self) -> str:
        return f"Room {self.room_id} is not known to this server"


@attr.s(auto_exc=True, auto_attribs=True)
class UnknownEvents(RepairError):
    """This server does not have the events in the room."""

    room_id: str
    event_ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"Not known to this server in room {self.room_id}: {first_of(self.event_ids)}"


@attr.s(auto_exc=True, auto_attribs=True)
class UnknownJob(RepairError):
    """There is no job of that id and kind."""

    kind: str
    job_id: str

    def __str__(self) -> str:
        return f"There is no {self.kind} {self.job_id}"


@attr.s(auto_exc=True, auto_attribs=True)
class NotRejected(RepairError):
    """The events are not rejected, so there is nothing to repair or force."""

    param: str
    event_ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"'{self.param}' names events that are not rejected: {first_of(self.event_ids)}"


@attr.s(auto_exc=True, auto_attribs=True)
class JobRunning(RepairError):
    """Another job is at work in the room."""

    room_id: str
    job_id: str

    def __str__(self) -> str:
        return f"Job {self.job_id} is already running in room {self.room_id}"


@attr.s(auto_exc=True, auto_attribs=True)
class JobOver(RepairError):
    """The job has ended, so it cannot be cancelled."""

    job_id: str
    status: str

    def __str__(self) -> str:
        return f"Job {self.job_id} is over already: {self.status}"


@attr.s(auto_exc=True, auto_attribs=True)
class NobodyWrites(RepairError):
    """Nobody can write alerts into the room that is configured for them."""

    room_id: str
    sender: str | None

    def __str__(self) -> str:
        nobody = "No user of this server is"
        who = nobody if self.sender is None else f"'alert.sender' {self.sender} is not"
        return f"{who} in 'alert.room' {self.room_id}: alerts cannot be sent there"


@attr.s(auto_exc=True, auto_attribs=True)
class FactsChanged(RepairError):
    """The room is not as it was when the dry run was made, nor what another server says of it."""

    room_id: str
    state_from: str | None = None

    def __str__(self) -> str:
        peer = f" {self.state_from} gives another state than then," if self.state_from else ""
        return (
            f"Room {self.room_id} has changed since that plan was made,{peer}"
            " or the plan was made for another request: make a new dry run"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class NotInRoom(RepairError):
    """No user of this server is in the room."""

    room_id: str

    def __str__(self) -> str:
        return (
            f"This server is not in room {self.room_id} (any more):"
            " nothing is done to a room without a joined local user"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class PartialState(RepairError):
    """The room's state is still being fetched after a faster join."""

    room_id: str

    def __str__(self) -> str:
        return (
            f"Room {self.room_id} has partial state: wait until Synapse has fetched the"
            " rest of it after the join"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class UnsupportedRoomVersion(RepairError):
    """The room's version works in a way that this module does not know."""

    room_id: str
    room_version: str

    def __str__(self) -> str:
        return f"Room {self.room_id} has version {self.room_version}, which is not supported"


@attr.s(auto_exc=True, auto_attribs=True)
class UnsupportedSynapse(RepairError):
    """Synapse's insides differ from those that this module was audited with."""

    differences: tuple[str, ...]

    def __str__(self) -> str:
        return (
            "This version of synapse_rejection_repair does not know a Synapse like this one"
            f" and does nothing: {'; '.join(self.differences)}"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class StillStarting(RepairError):
    """The module's tables are not there yet."""

    def __str__(self) -> str:
        return "The module is still starting: try again in a moment, or see Synapse's log"


@attr.s(auto_exc=True, auto_attribs=True)
class StepFailed(RepairError):
    """A step of a running job did not have the effect that the plan foretold."""

    event_id: str
    reason: str

    def __str__(self) -> str:
        return f"Event {self.event_id}: {self.reason}"


@attr.s(auto_exc=True, auto_attribs=True)
class NotStored(RepairError):
    """A job has done all that it was to do but for events at which Synapse itself failed."""

    event_ids: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"Synapse failed to store {first_of(self.event_ids)}, and its log says why:"
            " all the rest is done"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class StateNotReached(RepairError):
    """A job has not brought about the current state that its plan foretold."""

    room_id: str

    def __str__(self) -> str:
        return f"The current state of room {self.room_id} does not become what the plan foretells"


@attr.s(auto_exc=True, auto_attribs=True)
class UnknownEvent(RepairError):
    """This server does not have the event."""

    event_id: str

    def __str__(self) -> str:
        return f"Event {self.event_id} is not known to this server"
