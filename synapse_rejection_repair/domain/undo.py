"""What it takes to put a repair's events back as they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attr

from synapse_rejection_repair.domain.model import StateChange, StateIds
from synapse_rejection_repair.domain.plan import Action

UNDO = "undo"
"""What the journal calls it when an event is put back as it was."""

_STRONGEST_FIRST = (Action.RECEIVE, Action.REJECT, Action.RESTATE, Action.INDEX)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class UndoPlan:
    """What undoing a repair does.

    Attributes:
        repair_id: the repair that is undone.
        room_id: its room.
        events: what the repair did with each event; undone, it has not.
        state_changes: how the room's current state changes back.
    """

    repair_id: str
    room_id: str
    events: Mapping[str, Action]
    state_changes: tuple[StateChange, ...]


def done_with(entries: Iterable[tuple[str, str]]) -> dict[str, Action]:
    """What a repair did with each event, as far as it has to be undone.

    Of an event that was received and then restated, the rows from before it was received
    are what there was at first.

    Args:
        entries: the ids and actions that its journal has.
    """
    found: dict[str, Action] = {}
    for event_id, name in sorted(entries):
        action = Action(name)
        before = found.get(event_id, action)
        found[event_id] = min(before, action, key=_STRONGEST_FIRST.index)
    return found


def changes_back(changes: Iterable[StateChange], current: StateIds) -> tuple[StateChange, ...]:
    """The changes of a room's current state, turned round, that nothing has overtaken.

    Args:
        changes: how the repair changed it.
        current: the current state now.
    """
    return tuple(
        attr.evolve(c, before=c.after, after=c.before)
        for c in changes
        if current.get((c.type, c.state_key)) == c.after
    )
