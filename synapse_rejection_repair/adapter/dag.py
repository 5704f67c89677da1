"""What the database says of the events of a room's DAG, and of the edges between them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.json_object import json_object
from synapse_rejection_repair.adapter.replaced_state import read_replaced
from synapse_rejection_repair.adapter.soft_failures import SoftFailureReader
from synapse_rejection_repair.domain.affected import Behind
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.domain.tips import Spell
from synapse_rejection_repair.ports import DagReader

_FAR = 1000
"""How many events one query follows the edges to, at most."""

_ACCEPTED_EDGES = """event_edges AS ee
    INNER JOIN events AS e ON e.event_id = ee.event_id
    LEFT JOIN rejections AS r ON r.event_id = ee.event_id
    WHERE NOT e.outlier AND r.event_id IS NULL"""
"""The edges that accepted events have."""


class SynapseDag(DagReader):
    """Reads from Synapse's database, on any of its processes.

    Args:
        database: Synapse's.
        soft: reads soft-failed events.
    """

    def __init__(self, database: Database, soft: SoftFailureReader) -> None:
        self._database = database
        self._soft = soft

    @override
    async def newest_accepted(self, room_id: str) -> list[str]:
        rows = await self._database.rows(
            "newest_accepted",
            "SELECT e.event_id FROM events AS e LEFT JOIN rejections AS r USING (event_id)"
            " WHERE e.room_id = ? AND NOT e.outlier AND r.event_id IS NULL"
            " ORDER BY e.topological_ordering DESC, e.stream_ordering DESC LIMIT 20",
            (room_id,),
        )
        return [event_id for (event_id,) in rows]

    async def not_standing(self, event_ids: Collection[str]) -> set[str]:
        """Those of the events that are rejected, soft-failed, missing or outliers."""
        rows = await self._database.rows_of(
            "standing",
            "SELECT e.event_id, ej.internal_metadata FROM events AS e"
            " LEFT JOIN event_json AS ej ON ej.event_id = e.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE r.event_id IS NULL AND NOT e.outlier AND",
            event_ids,
            "e.event_id",
        )
        return set(event_ids) - {i for i, metadata in rows if not _is_soft_failed(metadata)}

    @override
    async def accepted_behind(self, event_ids: Collection[str]) -> Behind:
        # One generation at a time, a chain of ten thousand would be ten thousand questions.
        looked_up = {*event_ids, *await self.far_behind(event_ids)}
        rows = await self._database.rows_of(
            "children",
            f"SELECT ee.event_id FROM {_ACCEPTED_EDGES} AND",
            looked_up,
            "ee.prev_event_id",
        )
        nodes = await self._light_nodes({event_id for (event_id,) in rows})
        return Behind(nodes.values(), looked_up)

    async def far_behind(self, event_ids: Collection[str]) -> list[str]:
        """Accepted events that are reached from the events, however far: the first thousand."""
        clause, args = self._database.in_list("ee.prev_event_id", event_ids)
        rows = await self._database.rows(
            "far_behind",
            "WITH RECURSIVE behind (event_id) AS ("
            f"  SELECT ee.event_id FROM {_ACCEPTED_EDGES} AND {clause}"
            f"  UNION SELECT ee.event_id FROM behind AS b, {_ACCEPTED_EDGES}"
            "    AND ee.prev_event_id = b.event_id"
            ") SELECT event_id FROM behind LIMIT ?",
            (*args, _FAR),
        )
        return [event_id for (event_id,) in rows]

    async def _light_nodes(self, event_ids: Collection[str]) -> dict[str, Node]:
        """Accepted events as nodes, without reading their JSON (and so without auth events)."""
        prevs: dict[str, list[str]] = {}
        for event_id, prev in await self._database.rows_of(
            "prevs", "SELECT event_id, prev_event_id FROM event_edges WHERE", event_ids, "event_id"
        ):
            prevs.setdefault(event_id, []).append(prev)
        rows = await self._database.rows_of(
            "light_nodes",
            "SELECT e.event_id, e.type, se.state_key, e.sender, e.origin_server_ts, e.depth,"
            " e.stream_ordering FROM events AS e LEFT JOIN state_events AS se USING (event_id)"
            " WHERE",
            event_ids,
            "e.event_id",
        )
        return {
            event_id: Node(
                event_id,
                type_,
                state_key,
                sender,
                ts,
                depth,
                stream_ordering,
                prev_event_ids=tuple(prevs.get(event_id, ())),
                auth_event_ids=(),
            )
            for event_id, type_, state_key, sender, ts, depth, stream_ordering in rows
        }

    @override
    async def followed(self, event_ids: Collection[str]) -> set[str]:
        """Those of the events that count as followed when forward extremities are made.

        Mirrors `PersistEventsStore._get_events_which_are_prevs` (read in Synapse 1.151.0
        and 1.163.2).
        """
        rows = await self._database.rows_of(
            "followed",
            "SELECT ee.prev_event_id, ej.internal_metadata FROM event_edges AS ee"
            " INNER JOIN events AS e ON e.event_id = ee.event_id"
            " INNER JOIN event_json AS ej ON ej.event_id = ee.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = ee.event_id"
            " WHERE NOT e.outlier AND r.event_id IS NULL AND",
            event_ids,
            "ee.prev_event_id",
        )
        return {prev for prev, metadata in rows if not _is_soft_failed(metadata)}

    @override
    async def state_groups(self, event_ids: Collection[str]) -> dict[str, int]:
        """The stored state group of each of the events that has one, outliers left out."""
        rows = await self._database.rows_of(
            "state_groups",
            "SELECT g.event_id, g.state_group FROM event_to_state_groups AS g"
            " INNER JOIN events AS e ON e.event_id = g.event_id WHERE NOT e.outlier AND",
            event_ids,
            "g.event_id",
        )
        return dict(rows)

    @override
    async def replaced(self, event_ids: Collection[str]) -> dict[str, str | None]:
        return await read_replaced(self._database, event_ids)

    @override
    async def stream_orderings(self, event_ids: Collection[str]) -> dict[str, int]:
        rows = await self._database.rows_of(
            "stream_orderings",
            "SELECT event_id, stream_ordering FROM events WHERE",
            event_ids,
            "event_id",
        )
        return dict(rows)

    @override
    async def spells(
        self, facts: RoomFacts, positions: Sequence[int], also: Collection[str]
    ) -> dict[str, Spell]:
        return await self._soft.spells(
            facts.room_id,
            positions,
            {*also, *facts.extremities},
            facts.arrived,
            facts.soft_failed.keys(),
        )


def _is_soft_failed(metadata: str | None) -> bool:
    return bool(json_object(metadata).get("soft_failed"))
