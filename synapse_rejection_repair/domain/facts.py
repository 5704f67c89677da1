"""What a plan is made from: a room as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import attr

from synapse_rejection_repair.domain.borrowed import BorrowedState, digests
from synapse_rejection_repair.domain.gaps import Gap, Missing, gaps_at_the_end, gaps_behind
from synapse_rejection_repair.domain.health import Finding
from synapse_rejection_repair.domain.model import Node, StateIds
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.sorting import sorted_in_pieces


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
        bad_extremities: those of them that are rejected, soft-failed, missing, outliers, or
            followed by accepted events.
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
        if not missing.events and not missing.tips:
            return ()
        citing = {event_id for cited_by in missing.events.values() for event_id in cited_by}
        citing.update(i for node in missing.tips.values() for i in node.prev_event_ids)
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
        if not scope.whole:
            return tuple(g for g in gaps if accepted.intersection(g.cited_by))
        return gaps + gaps_at_the_end(missing.tips, since, accepted, doubtful)

    def fingerprint(self, scope: Scope, borrowed: Iterable[BorrowedState] = ()) -> str:
        """A digest of what a request chooses and of the facts that decide its plan.

        A message that is accepted meanwhile does not change it; a further rejection
        in scope, a change of the current state or of what is damaged does, and so does
        another state where one was borrowed. How clients are told is no part of what was seen.
        """
        chosen = scope.select(self.suspects)
        suspects = (
            (event_id, node.rejected, node.damaged)
            for event_id, node in self.suspects.items()
            if event_id in chosen
        )
        digest = hashlib.sha256()
        for part in (
            [self.room_id, scope.since_ts, scope.until_ts],
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
