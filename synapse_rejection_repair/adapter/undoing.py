"""Putting a repair's events back as they were, out of its journal."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.types.handlers import SLIDING_SYNC_DEFAULT_BUMP_EVENT_TYPES

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.mending import RoomMending
from synapse_rejection_repair.adapter.nodes import read_nodes, references
from synapse_rejection_repair.adapter.tables import JOBS, JOURNAL
from synapse_rejection_repair.adapter.takeaway import (
    OWN_ROWS,
    journal,
    put_back,
    restore_extremities,
    take_away,
)
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.dag import in_order
from synapse_rejection_repair.domain.repair import RepairJob
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.undo import UNDO, Done
from synapse_rejection_repair.errors import BuiltUpon
from synapse_rejection_repair.ports import Clock

_AT_ONCE = 100
"""How many events are put back in one transaction."""

_ACTIONS = tuple(action.value for action in Action)
_STORED_ANEW = (Action.RECEIVE, Action.REJECT)
_STATES = "event_to_state_groups"


class JournalReader:
    """Reads what repairs did, and what came after: the `UndoReader`.

    Args:
        database: Synapse's main database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def journal(self, job_id: str) -> list[tuple[str, str]]:
        """What the repair did: the events, each with an action."""
        marks = ", ".join("?" for _ in _ACTIONS)
        return await self._database.rows(
            "journal",
            f"SELECT event_id, action FROM {JOURNAL} WHERE job_id = ? AND action IN ({marks})",
            (job_id, *_ACTIONS),
        )

    async def later_jobs(self, repair: RepairJob, event_ids: Collection[str]) -> list[str]:
        """The jobs that have dealt with some of the events since the repair began."""
        rows = await self._database.rows_of(
            "later_jobs",
            f"SELECT DISTINCT j.job_id, job.created_ts FROM {JOURNAL} AS j"
            f" INNER JOIN {JOBS} AS job ON job.job_id = j.job_id WHERE",
            event_ids,
            "j.event_id",
        )
        return sorted(
            {i for i, created_ts in rows if i != repair.job_id and created_ts >= repair.created_ts}
        )

    async def stateless(self, repair: RepairJob, events: Done) -> list[str]:
        """The events whose states from before the repair are no longer stored.

        Nothing refers to these groups any more, so whatever tidies up may take them away.
        """
        found: list[str] = []
        for ids in batches(events, _AT_ONCE):
            found += await self._database.run("stateless", _stateless, repair.job_id, ids, events)
        return sorted(found)

    async def builders(self, repair: RepairJob, events: Done) -> list[str]:
        """The events accepted since that follow or cite what the repair received."""
        received = {i for i, actions in events.items() if Action.RECEIVE in actions}
        if not received:
            return []
        since = repair.started_ts or repair.created_ts
        following = await self._database.rows_of(
            "following",
            "SELECT DISTINCT e.event_id, e.received_ts FROM event_edges AS ee"
            " INNER JOIN events AS e ON e.event_id = ee.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE r.event_id IS NULL AND",
            received,
            "ee.prev_event_id",
        )
        # By the newer events, as auth events have no index to be found by.
        citing = await self._database.rows(
            "citing",
            "SELECT e.event_id, ea.auth_id FROM events AS e"
            " INNER JOIN event_auth AS ea ON ea.event_id = e.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE e.room_id = ? AND e.stream_ordering > ? AND r.event_id IS NULL",
            (repair.room_id, repair.progress.start_position or 0),
        )
        found = {i for i, received_ts in following if received_ts >= since}
        found.update(i for i, auth_id in citing if auth_id in received)
        return sorted(found - received)


class SynapseUndoWriter:
    """Puts the journalled rows back, on the process that writes the room's events.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        history: reads journals.
        mending: brings rooms in line in the end.
        clock: tells the time.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        history: JournalReader,
        mending: RoomMending,
        clock: Clock,
    ) -> None:
        self._store = hs.get_datastores().main
        self._database = database
        self._history = history
        self._mending = mending
        self._clock = clock

    async def undo(self, job: RepairJob, repair: RepairJob, events: Done) -> None:
        """Puts a repair's events back, and brings the room in line.

        Args:
            job: the job that does it.
            repair: the repair that is undone.
            events: what it did with the events that are still to be put back.

        Raises:
            BuiltUpon: accepted events build on them meanwhile. Nothing is put back then.
        """
        nodes = await read_nodes(self._database, events.keys())
        parents = {p for n in nodes.values() for p in n.prev_event_ids} - events.keys()
        children_first = [n.event_id for n in in_order(nodes)][::-1]
        builders: list[str] = []

        async def put_all_back() -> set[str]:
            builders.extend(await self._history.builders(repair, events))
            if builders:
                return set()
            for ids in batches(children_first, _AT_ONCE):
                await self._database.run("undo", self._undo, job, repair.job_id, ids, events)
                await self._clock.breathe()
            await self._database.run("undo_bump", _mend_bump_stamp, job.room_id)
            return parents

        await self._mending.mend(job.room_id, put_all_back)
        if builders:
            raise BuiltUpon(repair.job_id, tuple(builders))

    def _undo(
        self,
        txn: LoggingTransaction,
        job: RepairJob,
        repair_id: str,
        event_ids: Sequence[str],
        events: Done,
    ) -> None:
        now = self._clock.now_ms()
        anew = [i for i in event_ids if {*_STORED_ANEW} & {*events[i]}]
        if anew:
            was = {
                **_originals(txn, repair_id, anew, Action.REJECT),
                **_originals(txn, repair_id, anew, Action.RECEIVE),
            }
            taken = take_away(txn, job.room_id, anew, anew, job.job_id, UNDO, now)
            for event_id in anew:
                _insert(txn, event_id, was[event_id])
            put_back(txn, taken)
            restore_extremities(txn, {p for i in anew for p in _prev_events(was[i])})
            _mend_threads(txn, job.room_id, anew)
        restated = [i for i in event_ids if Action.RESTATE in events[i]]
        journal(txn, job.job_id, UNDO, now, _groups(txn, restated).items())
        txn.execute_batch(
            "UPDATE event_to_state_groups SET state_group = ? WHERE event_id = ?",
            [
                (group, event_id)
                for event_id, group in _originals(txn, repair_id, restated, Action.RESTATE).items()
            ],
        )
        indexed = [i for i in event_ids if Action.INDEX in events[i]]
        journal(txn, job.job_id, UNDO, now, [(i, {}) for i in indexed])
        if indexed:
            # In one statement: SQLite's search table has no index on event ids.
            marks = ", ".join("?" for _ in indexed)
            txn.execute(f"DELETE FROM event_search WHERE event_id IN ({marks})", indexed)
        # Every process may have cached any of it.
        self._store._invalidate_caches_for_room_events_and_stream(txn, job.room_id)


def _originals(
    txn: LoggingTransaction, job_id: str, event_ids: Sequence[str], action: Action
) -> dict[str, Any]:
    """What the journal has kept of those of some events with which a repair did something."""
    found: dict[str, Any] = {}
    for event_id in event_ids:
        txn.execute(
            f"SELECT original_rows FROM {JOURNAL} WHERE job_id = ? AND event_id = ? AND action = ?",
            (job_id, event_id, action.value),
        )
        found.update((event_id, json.loads(was)) for (was,) in txn.fetchall())
    return found


def _stateless(
    txn: LoggingTransaction, job_id: str, event_ids: Sequence[str], events: Done
) -> list[str]:
    groups = dict(_originals(txn, job_id, event_ids, Action.RESTATE))
    for action in _STORED_ANEW:
        ids = [i for i in event_ids if action in events[i]]
        for event_id, rows in _originals(txn, job_id, ids, action).items():
            groups.update((event_id, r["state_group"]) for r in rows.get(_STATES, ()))
    stored = {}
    for group in {*groups.values()}:
        txn.execute("SELECT 1 FROM state_groups WHERE id = ?", (group,))
        stored[group] = txn.fetchone() is not None
    return [event_id for event_id, group in groups.items() if not stored[group]]


def _insert(
    txn: LoggingTransaction, event_id: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    txn.execute("DELETE FROM event_to_state_groups WHERE event_id = ?", (event_id,))
    # The events first: other tables point to them.
    for table in (_STATES, *OWN_ROWS)[::-1]:
        for row in rows.get(table, ()):
            marks = ", ".join("?" for _ in row)
            txn.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values())
            )


def _prev_events(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    return [
        prev
        for row in rows.get("event_json", ())
        for prev in references(json.loads(row["json"]), "prev_events")
    ]


def _groups(txn: LoggingTransaction, event_ids: Collection[str]) -> dict[str, int]:
    found: dict[str, Any] = {}
    for event_id in event_ids:
        txn.execute("SELECT state_group FROM event_to_state_groups WHERE event_id = ?", (event_id,))
        found.update((event_id, group) for (group,) in txn.fetchall())
    return found


def _mend_bump_stamp(txn: LoggingTransaction, room_id: str) -> None:
    """Lets sliding sync sort the room by the newest event that is still in it."""
    types = sorted(SLIDING_SYNC_DEFAULT_BUMP_EVENT_TYPES)
    txn.execute(
        "UPDATE sliding_sync_joined_rooms SET bump_stamp ="
        " (SELECT MAX(e.stream_ordering) FROM events AS e"
        "  LEFT JOIN rejections AS r ON r.event_id = e.event_id"
        "  WHERE e.room_id = ? AND e.stream_ordering > 0 AND NOT e.outlier"
        f"  AND r.event_id IS NULL AND e.type IN ({', '.join('?' for _ in types)}))"
        " WHERE room_id = ? AND bump_stamp IS NOT NULL",
        (room_id, *types, room_id),
    )


def _mend_threads(txn: LoggingTransaction, room_id: str, event_ids: Sequence[str]) -> None:
    """Lets threads end with the newest event that is still in them."""
    marks = ", ".join("?" for _ in event_ids)
    txn.execute(
        f"SELECT thread_id FROM threads WHERE room_id = ? AND latest_event_id IN ({marks})",
        (room_id, *event_ids),
    )
    for (thread_id,) in txn.fetchall():
        txn.execute(
            "SELECT e.event_id, e.topological_ordering, e.stream_ordering"
            " FROM event_relations AS er INNER JOIN events AS e ON e.event_id = er.event_id"
            " WHERE er.relates_to_id = ? AND er.relation_type = 'm.thread'"
            " ORDER BY e.topological_ordering DESC, e.stream_ordering DESC LIMIT 1",
            (thread_id,),
        )
        latest = txn.fetchone()
        if latest is None:
            txn.execute(
                "DELETE FROM threads WHERE room_id = ? AND thread_id = ?", (room_id, thread_id)
            )
            continue
        txn.execute(
            "UPDATE threads SET latest_event_id = ?, topological_ordering = ?,"
            " stream_ordering = ? WHERE room_id = ? AND thread_id = ?",
            (*latest, room_id, thread_id),
        )
