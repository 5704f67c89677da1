"""A repair as a value: the dry run prints it, the run executes it."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping

import attr

from synapse_rejection_repair.domain.borrowed import BorrowedState, digests
from synapse_rejection_repair.domain.gaps import Gap, Missing, gaps_behind
from synapse_rejection_repair.domain.health import Finding
from synapse_rejection_repair.domain.model import (
    ACCEPTED,
    Node,
    StateChange,
    StateIds,
    state_changes,
)
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.sorting import sorted_in_pieces
from synapse_rejection_repair.domain.steps import Action as Action
from synapse_rejection_repair.domain.steps import Step as Step
from synapse_rejection_repair.domain.steps import Steps, as_steps


class Deliver(str, enum.Enum):
    """How the clients of this server are told of what they missed."""

    LIVE = "live"
    """Of every message and state event, as if just received."""
    HISTORY = "history"
    """Of the room's state and its newest events; the rest is history to scroll back to."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Plan:
    """All that a repair of one room does, in the order in which it does it.

    Attributes:
        room_id: the room.
        fingerprint: of the facts that the plan was made from.
        steps: what is done with each event, parents first.
        state_changes: how the room's current state changes.
        extremities: the forward extremities that the room will have.
        mend_extremities: the stored forward extremities need correcting even where no
            event is received.
        borrowed: the states before events that it takes from another server.
        gaps: the missing events that other servers are asked for in the end. What comes
            is not foretold.
    """

    room_id: str
    fingerprint: str
    steps: Steps = attr.ib(converter=as_steps)
    state_changes: tuple[StateChange, ...]
    extremities: frozenset[str]
    mend_extremities: bool = False
    borrowed: tuple[BorrowedState, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def verdicts(self) -> Iterator[Step]:
        """The steps that judge an event: those that the answer of a dry run lists."""
        return self.steps.some(lambda kind: kind.judges)

    @property
    def accepted(self) -> int:
        """How many events the plan accepts."""
        return self._number_of(Action.RECEIVE)

    @property
    def rejected(self) -> int:
        """How many events the plan leaves rejected."""
        return self._number_of(Action.REJECT)

    @property
    def restated(self) -> int:
        """Of how many stored events the state is recomputed."""
        return self._number_of(Action.RESTATE)

    @property
    def let_through(self) -> int:
        """How many of the events that the plan accepts were soft-failed."""
        return self.steps.number_of(lambda k: k.action is Action.RECEIVE and k.soft_failed)

    def _number_of(self, action: Action) -> int:
        return self.steps.number_of(lambda kind: kind.action is action)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return (
            not self.state_changes
            and not self.mend_extremities
            and not self.steps.any(lambda kind: not kind.idle)
        )


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RoomFacts:
    """What a plan is made from, as read from the database at one time.

    Attributes:
        room_id: the room.
        room_version: its version's identifier.
        suspects: the rejected and the damaged events, by id.
        stale: accepted events whose stored state is known to be wrong, by id.
        unindexed: accepted events whose search row is missing, by id.
        unfinished: state events that a job accepted which did not come to its end, and
            events that it restated, by id: the state of what follows them may still be
            the old one.
        current_state: the room's current state as stored.
        extremities: the forward extremities as stored.
        bad_extremities: those of them that are rejected, missing, outliers or followed.
        defects: what the room's accepted events lack, by what it is.
        soft_failed: the soft-failed events; those since the first rejection if the room
            was not scanned.
        withheld: those of them that no repair judges again, each with the reason.
        gaps: what is missing.
        arrived: where events arrived first that were stored anew since, by id; known only
            where there are soft-failed events to judge by it.
        borrowed: accepted events whose stored state was taken from another server, and does
            not follow from the events before them.
    """

    room_id: str
    room_version: str
    suspects: Mapping[str, Node]
    stale: Mapping[str, Node]
    unindexed: Mapping[str, Node]
    unfinished: Mapping[str, Node]
    current_state: StateIds
    extremities: frozenset[str]
    bad_extremities: frozenset[str]
    defects: Mapping[Finding, list[str]]
    soft_failed: Mapping[str, Node] = attr.Factory(dict)
    withheld: Mapping[str, str] = attr.Factory(dict)
    gaps: Missing = attr.Factory(Missing)
    arrived: Mapping[str, int] = attr.Factory(dict)
    borrowed: frozenset[str] = frozenset()

    def chosen(self, scope: Scope) -> set[str]:
        """The ids of all the events that a repair of that scope may store anew."""
        return scope.select(self.suspects) | scope.select_soft_failed(self.soft_failed)

    def gaps_for(self, scope: Scope, received: Iterable[Node]) -> tuple[Gap, ...]:
        """The gaps since the first event that was wrongly rejected.

        What is missing from before is for Synapse to fill: every server that was ever down has
        such gaps. So has one that others have sent what is rightly rejected.

        Args:
            scope: what the repair is about: a part of the room has those behind it alone.
            received: the events that it accepts.
        """
        missing = self.gaps
        if not missing.events:
            return ()
        citing = {event_id for cited_by in missing.events.values() for event_id in cited_by}
        since, accepted = missing.since, set()
        for node in received:
            if not node.outlier:
                since = node.depth if since is None else min(since, node.depth)
            if node.event_id in citing:
                accepted.add(node.event_id)
        if since is None:
            return ()
        doubtful = {i for i in citing if i in self.suspects or i in self.soft_failed}
        followed = {
            event_id: [i for i, depth in cited_by.items() if depth > since]
            for event_id, cited_by in missing.events.items()
        }
        gaps = gaps_behind(followed, accepted, doubtful)
        return gaps if scope.whole else tuple(g for g in gaps if accepted.intersection(g.cited_by))

    def fingerprint(
        self, scope: Scope, deliver: Deliver, borrowed: Iterable[BorrowedState] = ()
    ) -> str:
        """A digest of the request and of the facts that decide its plan.

        A message that is accepted meanwhile does not change it; a further rejection
        in scope, a change of the current state or of what is damaged does, and so does
        another state where one was borrowed.
        """
        chosen = scope.select(self.suspects)
        suspects = (
            (event_id, node.rejected, node.damaged)
            for event_id, node in self.suspects.items()
            if event_id in chosen
        )
        digest = hashlib.sha256()
        for part in (
            [self.room_id, deliver.value, scope.since_ts, scope.until_ts],
            sorted_in_pieces(scope.event_ids),
            sorted_in_pieces(scope.force),
            sorted_in_pieces(suspects),
            sorted_in_pieces(self.stale),
            sorted_in_pieces(self.unindexed),
            sorted_in_pieces(self.unfinished),
            sorted_in_pieces(scope.select_soft_failed(self.soft_failed)),
            sorted_in_pieces(self.bad_extremities),
            sorted_in_pieces((*k, v) for k, v in self.current_state.items()),
            digests(borrowed),
        ):
            for item in part:
                digest.update(json.dumps(item).encode() + b"\n")
            digest.update(b"\n")
        return digest.hexdigest()


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


def complete(
    facts: RoomFacts,
    scope: Scope,
    deliver: Deliver,
    steps: Steps,
    extremities: frozenset[str],
    final_state: StateIds,
    borrowed: tuple[BorrowedState, ...],
) -> Plan:
    """The plan, once it is known what becomes of each event and of the room.

    Args:
        facts: the room as it is.
        scope: what the request asks for.
        deliver: how clients are to be told.
        steps: what is done with each suspect and what hangs on it; added to.
        extremities: the forward extremities that the room will have.
        final_state: the current state that it will have.
        borrowed: the states that are taken from another server.
    """
    received = steps.nodes(lambda kind: kind.receives)
    steps.backfill(delivered_as_history(received, deliver, final_state, extremities))
    dealt_with = set(steps.event_ids)
    for node in facts.unindexed.values():
        if node.event_id not in dealt_with:
            steps.add(node, Action.INDEX, ACCEPTED)
    receives = steps.any(lambda kind: kind.receives)
    return Plan(
        room_id=facts.room_id,
        fingerprint=facts.fingerprint(scope, deliver, borrowed),
        steps=steps,
        state_changes=tuple(state_changes(facts.current_state, final_state)),
        extremities=extremities,
        mend_extremities=not receives and extremities != facts.extremities,
        borrowed=borrowed,
        gaps=facts.gaps_for(scope, received),
    )
