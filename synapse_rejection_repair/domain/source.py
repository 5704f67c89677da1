"""What an old database says of a room. Nothing of it is verified."""

from __future__ import annotations

from typing import Any, NamedTuple

import attr

from synapse_rejection_repair.domain.references import is_id, references


class Position(NamedTuple):
    """Where an event is in the source's order of a room's history."""

    topological: int
    stream: int

    def before(self) -> Position:
        """The last position before this one."""
        return Position(self.topological, self.stream - 1)


BEGINNING = Position(-(2**62), -(2**62))
"""Before every event."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SourceEvent:
    """An event as the source has it. Nothing of it is verified.

    Attributes:
        event_id: the id under which the source keeps it.
        position: where it is in the source's order.
        pdu: its JSON, `None` if it is missing or none.
        state_group: the source's state group at it, `None` if there is none.
        rejected: the source rejected it.
        outlier: the source holds no state at it.
        soft_failed: the source soft-failed it.
        erased: its sender has had the source erase what they said: no newcomer was given it since.
    """

    event_id: str
    position: Position
    pdu: dict[str, Any] | None
    state_group: int | None = None
    rejected: bool = False
    outlier: bool = False
    soft_failed: bool = False
    erased: bool = False

    @property
    def prev_event_ids(self) -> tuple[str, ...]:
        """The events that it says it follows."""
        return references(self.pdu or {}, "prev_events")

    @property
    def auth_event_ids(self) -> tuple[str, ...]:
        """The events that it cites as its authority."""
        return references(self.pdu or {}, "auth_events")

    @property
    def replaces(self) -> str | None:
        """The event in whose place in the state it came, as the source noted it."""
        unsigned = None if self.pdu is None else self.pdu.get("unsigned")
        replaced = unsigned.get("replaces_state") if isinstance(unsigned, dict) else None
        return replaced if is_id(replaced) else None

    @property
    def is_state(self) -> bool:
        """Whether it says what it is the state of."""
        return isinstance((self.pdu or {}).get("state_key"), str)

    @property
    def encrypted(self) -> bool:
        """Whether only those can read it who kept the keys."""
        return self.pdu is not None and self.pdu.get("type") == "m.room.encrypted"

    def decides_on_itself(self, server_name: str) -> bool:
        """Whether a server's users see it by the state before it as well as by the one after.

        That is so for a change of the history visibility, and of their own membership
        (`synapse.visibility.filter_events_for_client`, read in Synapse 1.151.0 and 1.163.2).
        """
        pdu = self.pdu or {}
        key = pdu.get("state_key")
        if pdu.get("type") == "m.room.member":
            return isinstance(key, str) and key.endswith(f":{server_name}")
        return pdu.get("type") == "m.room.history_visibility" and key == ""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SourceRoom:
    """A room of the source against ours.

    Attributes:
        room_id: the room.
        events: how many events of it the source has accepted.
        missing: how many of those this server does not have in full.
        joined: a user of this server is in the room.
    """

    room_id: str
    events: int
    missing: int
    joined: bool
