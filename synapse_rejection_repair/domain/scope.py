"""Which events a request for a repair is about."""

from __future__ import annotations

from collections.abc import Mapping

import attr

from synapse_rejection_repair.domain.cascade import cited
from synapse_rejection_repair.domain.dag import descendants
from synapse_rejection_repair.domain.model import Node


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Scope:
    """The part of a room's rejected events that a repair may touch.

    Attributes:
        event_ids: only these events and what cites them, directly or through others;
            empty for all.
        since_ts: only events made at or after this time, in milliseconds.
        until_ts: only events made at or before this time, in milliseconds.
        force: events that are accepted though they fail checks 4 or 5.
    """

    event_ids: frozenset[str] = frozenset()
    since_ts: int | None = None
    until_ts: int | None = None
    force: frozenset[str] = frozenset()

    @property
    def whole(self) -> bool:
        """Whether it is the whole room."""
        return not self.event_ids and self.since_ts is None and self.until_ts is None

    def select(
        self,
        suspects: Mapping[str, Node],
        *,
        repaired: frozenset[str] = frozenset(),
        after: int | None = None,
    ) -> set[str]:
        """The ids of the suspects that are in scope.

        Args:
            suspects: the room's rejected and damaged events, by id.
            repaired: events that the same job has accepted already. What cites them was
                caught by the race with the repair, and belongs to it.
            after: the stream ordering at which the job began; what was stored later
                belongs to it too, where the request named events.
        """
        chosen = set(suspects)
        if self.event_ids:
            citing: dict[str, list[str]] = {}
            late = set()
            for node in suspects.values():
                for parent in cited(node, suspects):
                    citing.setdefault(parent, []).append(node.event_id)
                if repaired.intersection(node.auth_event_ids) or (
                    after is not None
                    and node.stream_ordering > after
                    and repaired.intersection(node.prev_event_ids)
                ):
                    late.add(node.event_id)
            starts = (self.event_ids | late) & suspects.keys()
            chosen = descendants(starts, citing)
        if self.since_ts is None and self.until_ts is None:
            return chosen
        return {event_id for event_id in chosen if self._in_time(suspects[event_id])}

    def select_soft_failed(self, soft_failed: Mapping[str, Node]) -> set[str]:
        """The ids of the soft-failed events that are in scope: all, or those that it names.

        Args:
            soft_failed: the room's soft-failed events, by id.
        """
        return {
            event_id
            for event_id, node in soft_failed.items()
            if self._in_time(node) and (not self.event_ids or event_id in self.event_ids)
        }

    def _in_time(self, node: Node) -> bool:
        ts = node.origin_server_ts
        return (self.since_ts is None or ts >= self.since_ts) and (
            self.until_ts is None or ts <= self.until_ts
        )
