"""Putting a repair's events back as they were, out of its journal."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction, make_in_list_sql_clause
from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.journal import journal, originals
from synapse_rejection_repair.adapter.latecomers import Latecomers
from synapse_rejection_repair.adapter.mending import RoomMending
from synapse_rejection_repair.adapter.newest import mend_bump_stamp, mend_threads
from synapse_rejection_repair.adapter.nodes import read_nodes
from synapse_rejection_repair.adapter.relations import redacted_by, restore_relations
from synapse_rejection_repair.adapter.replaced_state import put_notes_back
from synapse_rejection_repair.adapter.resolved import ResolvedStates
from synapse_rejection_repair.adapter.takeaway import (
    OWN_ROWS,
    STATE,
    delete,
    insert,
    put_back,
    restore_extremities,
    take_away,
)
from synapse_rejection_repair.adapter.undo_reader import SynapseUndoReader
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.dag import in_order
from synapse_rejection_repair.domain.references import references
from synapse_rejection_repair.domain.repair import RepairJob
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.undo import STORED_ANEW, UNDO, Done
from synapse_rejection_repair.errors import RepairError
from synapse_rejection_repair.errors_undo import StateGone
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_undo import UndoWriter

_AT_ONCE = 100
"""How many events are put back in one transaction."""


class SynapseUndoWriter(UndoWriter):
    """Puts the journalled rows back, on the process that writes the room's events.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        history: reads journals.
        mending: brings rooms in line in the end.
        hooks: into Synapse's persistence.
        latecomers: finds what was made or judged before.
        resolved: what processes remember of resolved states.
        clock: tells the time.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        history: SynapseUndoReader,
        mending: RoomMending,
        hooks: PersistenceHooks,
        latecomers: Latecomers,
        resolved: ResolvedStates,
        clock: Clock,
    ) -> None:
        self._store = hs.get_datastores().main
        self._state_deletion = hs.get_datastores().state_deletion
        self._database = database
        self._history = history
        self._mending = mending
        self._hooks = hooks
        self._latecomers = latecomers
        self._resolved = resolved
        self._clock = clock

    @override
    async def undo(self, job: RepairJob, repair: RepairJob, events: Done) -> None:
        nodes = await read_nodes(self._database, events.keys())
        parents = {p for n in nodes.values() for p in n.prev_event_ids} - events.keys()
        children_first = [n.event_id for n in in_order(nodes)][::-1]
        refused: RepairError | None = None

        async def put_all_back() -> set[str]:
            nonlocal refused
            refused = await self._history.obstacle(repair, events)
            if refused is None:
                refused = await self._keep_states(repair, events)
            if refused is not None:
                return set()
            for ids in batches(children_first, _AT_ONCE):
                await self._database.run("undo", self._undo, job, repair.job_id, ids, events)
                await self._clock.breathe()
            return await self._database.run("undo_bump", self._end, repair, parents)

        # What waits meanwhile was made and judged with the events as they are no longer.
        with self._hooks.refusing(job.room_id, self._latecomers.stale):
            await self._mending.mend(job.room_id, put_all_back)
        if refused is not None:
            raise refused

    async def _keep_states(self, repair: RepairJob, events: Done) -> RepairError | None:
        """Has Synapse keep the states of then for as long as it takes to refer to them again.

        It deletes what nothing refers to some minutes after it has come upon it
        (`StateDeletionDataStore`, read in Synapse 1.151.0 and 1.163.2).

        Returns:
            `StateGone`, or `None`.
        """
        groups = await self._history.groups_before(repair, events)
        missing: set[int] = set()
        for some in batches({*groups.values()}):
            missing.update(
                await self._state_deletion.check_state_groups_and_bump_deletion(set(some))
            )
        gone = sorted(event_id for event_id, group in groups.items() if group in missing)
        return StateGone(repair.job_id, tuple(gone)) if gone else None

    def _undo(
        self,
        txn: LoggingTransaction,
        job: RepairJob,
        repair_id: str,
        event_ids: Sequence[str],
        events: Done,
    ) -> None:
        now = self._clock.now_ms()
        anew = [i for i in event_ids if STORED_ANEW & {*events[i]}]
        if anew:
            was = {
                **originals(txn, repair_id, anew, Action.REJECT.value),
                **originals(txn, repair_id, anew, Action.RECEIVE.value),
            }
            redacted = redacted_by(txn, anew)
            taken = take_away(txn, job.room_id, anew, anew, job.job_id, UNDO, now)
            for event_id in anew:
                _insert(txn, event_id, was[event_id])
            put_back(txn, taken)
            before = {p for i in anew for p in _prev_events(was[i])}.difference(anew)
            restore_extremities(txn, before)
            mend_threads(txn, job.room_id, anew)
            # What was stored anew itself has its own rows of then.
            others = [i for i in redacted if not STORED_ANEW & {*events.get(i, ())}]
            if others:
                restore_relations(txn, job.room_id, others)
        restated = [i for i in event_ids if Action.RESTATE in events[i]]
        journal(txn, job.job_id, UNDO, now, _groups(txn, restated).items())
        was = originals(txn, repair_id, restated, Action.RESTATE.value)
        txn.execute_batch(
            f"UPDATE {STATE} SET state_group = ? WHERE event_id = ?",
            [(group, event_id) for event_id, group in was.items()],
        )
        put_notes_back(txn, repair_id, job.job_id, now, restated)
        indexed = [i for i in event_ids if Action.INDEX in events[i]]
        journal(txn, job.job_id, UNDO, now, [(i, {}) for i in indexed])
        if indexed:
            # In one statement: SQLite's search table has no index on event ids.
            delete(txn, "event_search", indexed)
        # Every process may have cached any of it.
        self._store._invalidate_caches_for_room_events_and_stream(txn, job.room_id)
        self._resolved.forget(txn)

    def _end(
        self, txn: LoggingTransaction, repair: RepairJob, parents: Collection[str]
    ) -> set[str]:
        """Lets the room end as it did before the repair, and with what came since.

        A damaged event that was put back counts as accepted, but has no edges: by them, nothing
        follows those before it.

        Returns:
            The events that may be forward extremities.
        """
        mend_bump_stamp(txn, repair.room_id)
        were, position = repair.progress.start_extremities, repair.progress.start_position
        if were:
            restore_extremities(txn, were)
        txn.execute(
            "SELECT event_id FROM event_forward_extremities WHERE room_id = ?", (repair.room_id,)
        )
        stored = {event_id for (event_id,) in txn.fetchall()}
        candidates = stored.union(parents, were or ())
        ids = [*candidates.difference(were or ())]
        never = {
            event_id
            for action in STORED_ANEW
            for event_id in originals(txn, repair.job_id, ids, action.value)
        }
        if were is not None and position is not None:
            for some in batches(ids):
                clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", some)
                txn.execute(
                    f"SELECT event_id FROM events WHERE stream_ordering <= ? AND {clause}",
                    (position, *args),
                )
                never.update(event_id for (event_id,) in txn.fetchall())
        # A room must never have none.
        if not stored <= never:
            delete(txn, "event_forward_extremities", stored & never)
        self._store._invalidate_cache_and_stream(
            txn, self._store.get_latest_event_ids_in_room, (repair.room_id,)
        )
        return candidates - never


def _insert(
    txn: LoggingTransaction, event_id: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    delete(txn, STATE, [event_id])
    # The events first: other tables point to them.
    for table in (STATE, *OWN_ROWS)[::-1]:
        for row in rows.get(table, ()):
            insert(txn, table, row)


def _prev_events(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    return [
        prev
        for row in rows.get("event_json", ())
        for prev in references(json.loads(row["json"]), "prev_events")
    ]


def _groups(txn: LoggingTransaction, event_ids: Collection[str]) -> dict[str, int]:
    found: dict[str, Any] = {}
    for event_id in event_ids:
        txn.execute(f"SELECT state_group FROM {STATE} WHERE event_id = ?", (event_id,))
        found.update((event_id, group) for (group,) in txn.fetchall())
    return found
