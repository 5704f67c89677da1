"""What can go wrong with what other servers say; `rest.errors` makes it HTTP."""

from __future__ import annotations

import attr

from synapse_rejection_repair.errors import RepairError, first_of


@attr.s(auto_exc=True, auto_attribs=True)
class PeerFailed(RepairError):
    """Another server does not answer, or with nothing that makes sense."""

    server: str
    reason: str

    def __str__(self) -> str:
        return f"Server {self.server} does not give the state before an event: {self.reason}"


@attr.s(auto_exc=True, auto_attribs=True)
class PeerStateRefused(RepairError):
    """The state that another server gives holds an event that cannot be believed."""

    server: str
    event_id: str
    reason: str

    def __str__(self) -> str:
        return (
            f"The state that server {self.server} gives is refused, for its event"
            f" {self.event_id}: {self.reason}"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class NotHeldElsewhere(RepairError):
    """Another server does not hold the events before which its state was asked for."""

    server: str
    event_ids: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"Server {self.server} does not hold, or has rejected as well:"
            f" {first_of(self.event_ids)}"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class StateMoved(RepairError):
    """The state before an event here is not the one that a borrowed state was compared with."""

    event_id: str

    def __str__(self) -> str:
        return (
            f"The state before event {self.event_id} has changed here since the plan was made:"
            " make a new dry run"
        )
