"""How the clients of this server are told of what they missed."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from synapse_rejection_repair.domain.model import Node, StateIds


class Deliver(str, enum.Enum):
    """How the clients of this server are told of what they missed."""

    LIVE = "live"
    """Of every message and state event, as if just received."""
    HISTORY = "history"
    """Of the room's state and its newest events; the rest is history to scroll back to."""


def delivered_as_history(
    nodes: Iterable[Node],
    deliver: Deliver,
    final_state: StateIds,
    extremities: frozenset[str],
) -> set[str]:
    """The accepted events that are stored without sending them to syncing clients.

    A state event that an event known to the clients has superseded is always among
    them: arriving late in their timelines, it would undo the newer one.

    Args:
        nodes: the accepted events, in the order in which they are received; gone through
            twice.
        deliver: what the request asks for.
        final_state: the room's current state after the repair.
        extremities: the room's forward extremities after the repair.
    """
    ids = {node.event_id for node in nodes}
    history = set()
    for node in nodes:
        key = node.key
        if key is not None and final_state.get(key) != node.event_id:
            superseded_by_known = key in final_state and final_state[key] not in ids
            if superseded_by_known or deliver is Deliver.HISTORY:
                history.add(node.event_id)
        elif key is None and deliver is Deliver.HISTORY and node.event_id not in extremities:
            history.add(node.event_id)
    return history
