"""What it takes to put a repair's events back as they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attr

from synapse_rejection_repair.domain.model import StateChange, StateIds
from synapse_rejection_repair.domain.steps import Action

UNDO = "undo"
"""What the journal calls it when an event is put back as it was."""

STORED_ANEW = frozenset((Action.RECEIVE, Action.REJECT))
"""What a repair does by storing an event anew."""

Done = Mapping[str, tuple[Action, ...]]
"""What a repair did with each event, as far as it has to be undone."""


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
    events: Done
    state_changes: tuple[StateChange, ...]


def done_with(entries: Iterable[tuple[str, str]]) -> dict[str, tuple[Action, ...]]:
    """What a repair did with each event, as far as it has to be undone.

    Where an event was stored anew, its rows from before that are all there was of it,
    whatever else was done with it later.

    Args:
        entries: the ids and actions that its journal has.
    """
    found: dict[str, tuple[Action, ...]] = {}
    for event_id, name in sorted(entries):
        found[event_id] = (*found.get(event_id, ()), Action(name))
    return {
        event_id: tuple(a for a in actions if a in STORED_ANEW)[:1] or actions
        for event_id, actions in found.items()
    }


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
