"""Finding what a room's accepted events lack, by one pass over the room in small queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attr
from synapse.storage.database import LoggingTransaction
from synapse.storage.engines import PostgresEngine

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.json_object import json_object
from synapse_rejection_repair.adapter.replaced_state import read_replaced
from synapse_rejection_repair.adapter.state_difference import difference
from synapse_rejection_repair.adapter.tables import JOBS, JOURNAL
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.health import Finding
from synapse_rejection_repair.domain.model import StateKey
from synapse_rejection_repair.domain.references import references
from synapse_rejection_repair.domain.state import replaced
from synapse_rejection_repair.ports import Clock, StateReader

_SCAN = 1000
"""How many of a room's events one query looks at."""

_SEARCHED = {"m.room.message": "body", "m.room.topic": "topic", "m.room.name": "name"}
"""The content field that Synapse indexes for each type.

Mirrors `PersistEventsStore._store_room_message_txn`, `_store_room_topic_txn` and
`_store_room_name_txn` (read in Synapse 1.151.0 and 1.163.2).
"""

DAMAGE = (
    Finding.MISSING_EDGES,
    Finding.MISSING_STATE_GROUP,
    Finding.MISSING_STATE_ROW,
    Finding.MISSING_MEMBERSHIP,
)
"""What only receiving the event anew mends."""

_WINDOW = """
    SELECT event_id, stream_ordering, type, sender FROM events
    WHERE room_id = ? AND stream_ordering > ? ORDER BY stream_ordering LIMIT ?"""

_LACKING = f"""
    SELECT e.event_id, e.type, ej.json, esg.state_group IS NULL, se.event_id IS NULL,
           rm.event_id IS NULL OR (cse.event_id IS NOT NULL AND cse.membership IS NULL),
           NOT EXISTS (SELECT 1 FROM event_edges AS ee WHERE ee.event_id = e.event_id)
    FROM ({_WINDOW}) AS w
    INNER JOIN events AS e ON e.event_id = w.event_id
    INNER JOIN event_json AS ej ON ej.event_id = e.event_id
    LEFT JOIN rejections AS r ON r.event_id = e.event_id
    LEFT JOIN event_to_state_groups AS esg ON esg.event_id = e.event_id
    LEFT JOIN state_events AS se ON se.event_id = e.event_id
    LEFT JOIN room_memberships AS rm ON rm.event_id = e.event_id
    LEFT JOIN current_state_events AS cse
        ON e.type = 'm.room.member' AND cse.event_id = e.event_id
    WHERE r.event_id IS NULL AND NOT e.outlier AND (
        esg.state_group IS NULL
        OR (e.state_key IS NOT NULL AND se.event_id IS NULL)
        OR (e.type = 'm.room.member' AND e.state_key IS NOT NULL
            AND (rm.event_id IS NULL OR (cse.event_id IS NOT NULL AND cse.membership IS NULL)))
        OR (e.type <> 'm.room.create'
            AND NOT EXISTS (SELECT 1 FROM event_edges AS ee WHERE ee.event_id = e.event_id))
    )"""

_SEARCHABLE = f"""
    FROM ({_WINDOW}) AS w
    INNER JOIN events AS e ON e.event_id = w.event_id
    LEFT JOIN rejections AS r ON r.event_id = e.event_id
    WHERE r.event_id IS NULL AND NOT e.outlier
        AND e.type IN ('m.room.message', 'm.room.topic', 'm.room.name')
        AND NOT EXISTS (SELECT 1 FROM redactions AS rd WHERE rd.redacts = e.event_id)"""

# An event was given the state of the events before it when it was stored, so a different
# group is an error only where the event before it was here by then, under whatever stream
# ordering it was stored anew since.
_OTHER_STATE = f"""
    SELECT e.event_id, e.type, e.state_key, g.state_group, pg.state_group, EXISTS (
        SELECT 1 FROM {JOURNAL} AS j
        WHERE j.event_id = p.event_id AND j.action IN ('receive', 'restate'))
    FROM ({_WINDOW}) AS w
    INNER JOIN events AS e ON e.event_id = w.event_id
    INNER JOIN event_edges AS ee ON ee.event_id = e.event_id
    INNER JOIN events AS p ON p.event_id = ee.prev_event_id
    INNER JOIN event_to_state_groups AS g ON g.event_id = e.event_id
    INNER JOIN event_to_state_groups AS pg ON pg.event_id = p.event_id
    LEFT JOIN rejections AS r ON r.event_id = e.event_id
    LEFT JOIN state_group_edges AS sge
        ON sge.state_group = g.state_group AND sge.prev_state_group = pg.state_group
    WHERE r.event_id IS NULL AND NOT e.outlier AND NOT p.outlier
        AND (p.stream_ordering < e.stream_ordering OR EXISTS (
            SELECT 1 FROM {JOURNAL} AS j
            WHERE j.event_id = p.event_id AND j.action = 'receive'))
        AND g.state_group <> pg.state_group
        AND (e.state_key IS NULL OR sge.state_group IS NULL)
        AND (SELECT COUNT(*) FROM event_edges AS n WHERE n.event_id = e.event_id) = 1"""

# Where branches meet, the state has to be resolved: looked at only behind repaired events.
_MERGES = f"""
    SELECT DISTINCT e.event_id, e.type, e.state_key, g.state_group
    FROM {JOBS} AS job
    INNER JOIN {JOURNAL} AS j ON j.job_id = job.job_id AND j.action = 'receive'
    INNER JOIN event_edges AS ee ON ee.prev_event_id = j.event_id
    INNER JOIN events AS e ON e.event_id = ee.event_id
    INNER JOIN event_to_state_groups AS g ON g.event_id = e.event_id
    LEFT JOIN rejections AS r ON r.event_id = e.event_id
    WHERE job.room_id = ? AND r.event_id IS NULL AND NOT e.outlier
        AND (SELECT COUNT(*) FROM event_edges AS n WHERE n.event_id = e.event_id) > 1"""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class DefectScan:
    """Looks through one room's accepted events.

    Attributes:
        database: Synapse's.
        states: to compare the states of two state groups.
        clock: lets the server breathe.
        searched: whether Synapse writes its search index (`enable_search`).
    """

    database: Database
    states: StateReader
    clock: Clock
    searched: bool = True

    async def run(self, room_id: str) -> dict[Finding, list[str]]:
        """The events that lack something, by what they lack."""
        found: dict[Finding, list[str]] = {}
        same: dict[tuple[int, int, StateKey | None, str | None], bool] = {}
        indexed = await self._indexed(room_id) if self.searched else ()
        position: int | None = -(2**63)
        while position is not None:
            window = (room_id, position, _SCAN)
            for finding, event_id in await self.database.run("scan", self._lacking, window):
                found.setdefault(finding, []).append(event_id)
            if self.searched:
                for event_id in await self._unsearchable(window, indexed):
                    found.setdefault(Finding.MISSING_SEARCH, []).append(event_id)
            behind: dict[str, tuple[StateKey, int]] = {}
            for row in await self.database.rows("scan_state", _OTHER_STATE, window):
                event_id, type_, state_key, group, prev_group, repaired = row
                key = None if state_key is None else (type_, state_key)
                pair = (group, prev_group, key, event_id if key else None)
                if pair not in same:
                    same[pair] = await self._follows(*pair)
                if not same[pair]:
                    found.setdefault(Finding.STALE_STATE, []).append(event_id)
                elif repaired and key is not None:
                    behind[event_id] = key, prev_group
            for event_id in await self._wrongly_noted(behind):
                found.setdefault(Finding.STALE_STATE, []).append(event_id)
            position = await self._next(window)
            await self.clock.breathe()
        for event_id in await self._wrong_merges(room_id):
            found.setdefault(Finding.STALE_STATE, []).append(event_id)
        return found

    async def _wrongly_noted(self, events: Mapping[str, tuple[StateKey, int]]) -> list[str]:
        """The state events behind repaired ones that are noted to replace another than they do.

        Args:
            events: the key of each, and the state group before it.
        """
        noted = await read_replaced(self.database, events)
        wrong = []
        for event_id, (key, group) in events.items():
            entry = (await self.states.entries(group, [key])).get(key)
            if event_id in noted and replaced(event_id, entry, noted[event_id]) != noted[event_id]:
                wrong.append(event_id)
            await self.clock.breathe()
        return wrong

    async def _wrong_merges(self, room_id: str) -> list[str]:
        """The events behind repaired ones whose state is not that of all events before them."""
        merges = await self.database.rows("scan_merges", _MERGES, (room_id,))
        prevs: dict[str, list[str]] = {}
        for event_id, prev in await self.database.rows_of(
            "scan_merged",
            "SELECT event_id, prev_event_id FROM event_edges WHERE",
            [row[0] for row in merges],
            "event_id",
        ):
            prevs.setdefault(event_id, []).append(prev)
        ids = {prev for found in prevs.values() for prev in found}
        with_state = await self.database.rows_of(
            "scan_merged_states",
            "SELECT g.event_id FROM event_to_state_groups AS g"
            " INNER JOIN events AS e ON e.event_id = g.event_id WHERE NOT e.outlier AND",
            ids,
            "g.event_id",
        )
        known = {event_id for (event_id,) in with_state}
        noted = await read_replaced(self.database, [row[0] for row in merges if row[2] is not None])
        wrong = []
        for event_id, type_, state_key, group in merges:
            if not known.issuperset(prevs[event_id]):
                continue
            expected = dict(await self.states.after(room_id, prevs[event_id]))
            right = True
            if state_key is not None:
                entry = expected.get((type_, state_key))
                was = noted.get(event_id)
                right = event_id not in noted or replaced(event_id, entry, was) == was
                expected[type_, state_key] = event_id
            if not right or await self.states.full(group) != expected:
                wrong.append(event_id)
            await self.clock.breathe()
        return wrong

    async def _next(self, window: tuple[str, int, int]) -> int | None:
        ((count, last),) = await self.database.rows(
            "scan_next", f"SELECT COUNT(*), MAX(stream_ordering) FROM ({_WINDOW}) AS w", window
        )
        return int(last) if count == window[2] else None

    @staticmethod
    def _lacking(
        txn: LoggingTransaction, window: tuple[str, int, int]
    ) -> list[tuple[Finding, str]]:
        txn.execute(_LACKING, window)
        return [(f, row[0]) for row in txn for f in _findings(row, json_object(row[2]))]

    async def _unsearchable(
        self, window: tuple[str, int, int], indexed: Collection[str] | None
    ) -> list[str]:
        sql = f"SELECT e.event_id {_SEARCHABLE}"
        if indexed is None:
            sql += (
                " AND NOT EXISTS (SELECT 1 FROM event_search AS es WHERE es.event_id = e.event_id)"
            )
        rows = await self.database.rows("scan_search", sql, window)
        candidates = [i for (i,) in rows if indexed is None or i not in indexed]

        def with_text(txn: LoggingTransaction, batch: list[str]) -> list[str]:
            clause, args = self.database.in_list("event_id", batch)
            txn.execute(f"SELECT event_id, json FROM event_json WHERE {clause}", args)
            return [i for i, json in txn if _searched_text(json_object(json))]

        found: list[str] = []
        for batch in batches(candidates):
            found += await self.database.run("scan_search_text", with_text, batch)
        return found

    async def _indexed(self, room_id: str) -> Collection[str] | None:
        """The events that the search finds, or `None` where a query per event is quick.

        SQLite's search table has no index on event ids, so it is read once, whole.
        """
        if isinstance(self.database.engine, PostgresEngine):
            return None

        def read(txn: LoggingTransaction) -> set[str]:
            txn.execute("SELECT event_id FROM event_search WHERE room_id = ?", (room_id,))
            # One by one: nothing else runs while many are hashed in one piece.
            return {event_id for (event_id,) in txn}

        return await self.database.run("scan_search_index", read)

    async def _follows(
        self, group: int, prev_group: int, key: StateKey | None, event_id: str | None
    ) -> bool:
        """Whether a group is the state before it, with at most the event's own entry set."""
        set_, replaced = await self.database.run("scan_difference", difference, group, prev_group)
        if key is None:
            return not set_ and not replaced
        if set_ or replaced:
            return set_ == {key: event_id} and replaced.keys() <= {key}
        return (await self.states.entries(group, [key])).get(key) == event_id


def _findings(row: tuple[Any, ...], event: dict[str, Any]) -> list[Finding]:
    _, type_, _, no_group, no_state_row, no_member, no_edges = row
    is_state = isinstance(event.get("state_key"), str)
    findings = []
    if no_edges and references(event, "prev_events"):
        findings.append(Finding.MISSING_EDGES)
    if no_group:
        findings.append(Finding.MISSING_STATE_GROUP)
    if no_state_row and is_state:
        findings.append(Finding.MISSING_STATE_ROW)
    if no_member and is_state and type_ == "m.room.member":
        findings.append(Finding.MISSING_MEMBERSHIP)
    return findings


def _searched_text(event: dict[str, Any]) -> str | None:
    field = _SEARCHED.get(str(event.get("type")))
    content = event.get("content")
    if field is None or not isinstance(content, dict):
        return None
    text = content.get(field)
    return text if isinstance(text, str) else None
