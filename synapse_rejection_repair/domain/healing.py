"""Whether a root may be repaired without an admin: only where nothing is left to decide."""

from __future__ import annotations

import attr

from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.model import StateChange
from synapse_rejection_repair.domain.peers import Held, PeerReport
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.steps import Action


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Healed:
    """What became of a root that an alert is about.

    Attributes:
        repair_id: the repair that was begun without an admin; `None` if it waits for one.
        status: where that repair stands.
        waits: why it waits for an admin, in a sentence; `None` if it does not.
    """

    repair_id: str | None = None
    status: str | None = None
    waits: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the repair has come to its end."""
        return self.status == Status.COMPLETE.value


def why_not(facts: RoomFacts, root: str, plan: Plan, most: int) -> str | None:
    """Why a root has to wait for an admin, by its plan; `None` if it need not.

    It need not where it passes all checks now, and its plan does what follows from it and no
    more: it accepts the root and its cascade, changes the current state to some of these
    alone, and recomputes no states but those behind them.

    Args:
        facts: the room as it is.
        root: the root.
        plan: the plan for the root and its cascade.
        most: how many events may be accepted or have their state recomputed.
    """
    received = {s.node.event_id for s in plan.steps if s.action is Action.RECEIVE}
    refused = [s for s in plan.verdicts if not s.verdict.accepted]
    if root not in {s.node.event_id for s in plan.verdicts}:
        return "It is not rejected any more"
    if root not in received:
        return "It does not pass the checks now"
    if refused:
        return f"{len(refused)} events that follow it do not pass the checks"
    touched = received | {s.node.event_id for s in plan.steps if s.action is Action.RESTATE}
    if len(touched) > most:
        return too_many(len(touched), most)
    if _damaged(facts):
        return "Something else is wrong with the room"
    foreign = [c for c in plan.state_changes if not _by(c, received)]
    if foreign:
        return f"A repair would change {len(foreign)} entries of the state to something else"
    return None


def not_confirmed(peers: PeerReport) -> str | None:
    """Why a root has to wait for an admin, by what other servers say; `None` if it need not.

    It need not where at least one holds it with the state before it that this server has, and
    more do than say that they do not hold it, or have another state there. Where they differ,
    more has gone wrong than that the root was rejected.
    """
    holds, lacks = peers.count(Held.HOLDS), peers.count(Held.DOES_NOT_HOLD)
    if holds <= lacks:
        return f"{holds} other servers hold it, and {lacks} do not"
    disagree = len(peers.disagree)
    if holds - disagree <= lacks + disagree:
        return f"{disagree} of the {holds} other servers that hold it have another state before it"
    return None


def too_many(count: int, most: int) -> str:
    """Why a root waits whose repair would touch so many events."""
    return f"A repair would touch {count} events, which are more than {most}"


def _damaged(facts: RoomFacts) -> bool:
    return bool(
        facts.stale
        or facts.unindexed
        or facts.unfinished
        or facts.bad_extremities
        or any(node.damaged for node in facts.suspects.values())
    )


def _by(change: StateChange, received: set[str]) -> bool:
    return change.after in received
