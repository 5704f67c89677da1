"""Reading events as nodes of the DAG, without their content."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from synapse.storage.database import LoggingTransaction

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.json_object import json_object
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.domain.nodes import NodeTable
from synapse_rejection_repair.domain.references import references

_AT_ONCE = 100
"""How many nodes are taken in before everything else runs."""

_NODE_SQL = """
    SELECT e.event_id, e.type, e.sender, e.origin_server_ts, e.depth, e.stream_ordering,
           e.outlier, r.reason, ej.json
    FROM events AS e
    LEFT JOIN event_json AS ej USING (event_id)
    LEFT JOIN rejections AS r USING (event_id)
    WHERE """


async def read_nodes(
    database: Database, event_ids: Iterable[str], *, damaged: Collection[str] = ()
) -> NodeTable:
    """The events of those ids as nodes, by id; unknown ids are left out.

    Args:
        database: Synapse's.
        event_ids: the events; some may be there twice.
        damaged: those that are marked as damaged, where they are not rejected.
    """
    nodes = NodeTable()

    def read(txn: LoggingTransaction, batch: list[str]) -> list[Node]:
        clause, args = database.in_list("e.event_id", batch)
        txn.execute(_NODE_SQL + clause, args)
        # Decoded here, in the database's thread, so as not to hold up the reactor.
        return [_node(row, damaged) for row in txn]

    for batch in batches(event_ids, _AT_ONCE):
        for node in await database.run("read_nodes", read, batch):
            nodes.add(node)
    return nodes


def _node(row: tuple[Any, ...], damaged: Collection[str]) -> Node:
    event_id, type_, sender, ts, depth, stream_ordering, outlier, reason, json = row
    # Without JSON that can be read, an event is a node that nothing is known to tie to others.
    event = json_object(json)
    state_key = event.get("state_key")
    return Node(
        event_id=event_id,
        type=type_,
        state_key=state_key if isinstance(state_key, str) else None,
        sender=sender,
        origin_server_ts=ts,
        depth=depth,
        stream_ordering=stream_ordering,
        prev_event_ids=references(event, "prev_events"),
        auth_event_ids=references(event, "auth_events"),
        rejected=reason,
        outlier=bool(outlier),
        damaged=reason is None and event_id in damaged,
    )
