"""What a repair did by its journal, and what came after it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from synapse.storage.database import LoggingTransaction
from typing_extensions import override

from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.journal import originals
from synapse_rejection_repair.adapter.tables import JOBS, JOURNAL
from synapse_rejection_repair.adapter.takeaway import STATE
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.repair import RepairJob
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.undo import STORED_ANEW, Done
from synapse_rejection_repair.errors import RepairError
from synapse_rejection_repair.errors_undo import BuiltUpon, EventsGone, NothingLeft
from synapse_rejection_repair.ports_undo import UndoReader

_AT_ONCE = 100
"""How many events are looked at in one transaction."""

_ACTIONS = tuple(action.value for action in Action)


class SynapseUndoReader(UndoReader):
    """Reads what repairs did, and what came after.

    Args:
        database: Synapse's main database.
        dag: reads who follows whom.
    """

    def __init__(self, database: Database, dag: SynapseDag) -> None:
        self._database = database
        self._dag = dag

    @override
    async def journal(self, job_id: str) -> list[tuple[str, str]]:
        clause, args = self._database.in_list("action", _ACTIONS)
        return await self._database.rows(
            "journal",
            f"SELECT event_id, action FROM {JOURNAL} WHERE job_id = ? AND {clause}",
            (job_id, *args),
        )

    @override
    async def later_jobs(self, repair: RepairJob, event_ids: Collection[str]) -> list[str]:
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

    @override
    async def undone_by(self, repair: RepairJob) -> str | None:
        rows = await self._database.rows(
            "undone_by",
            f"SELECT job_id, request FROM {JOBS} WHERE room_id = ? AND kind = 'repair'"
            " AND status = 'complete' AND created_ts >= ? ORDER BY created_ts",
            (repair.room_id, repair.created_ts),
        )
        for job_id, request in rows:
            if json.loads(request).get("undoes") == repair.job_id:
                return str(job_id)
        return None

    @override
    async def stateless(self, repair: RepairJob, events: Done) -> list[str]:
        groups = await self.groups_before(repair, events)
        rows = await self._database.rows_of(
            "state_groups", "SELECT id FROM state_groups WHERE", {*groups.values()}, "id"
        )
        stored = {group for (group,) in rows}
        return sorted(event_id for event_id, group in groups.items() if group not in stored)

    async def groups_before(self, repair: RepairJob, events: Done) -> dict[str, int]:
        """The state groups that events had before a repair, by event.

        Nothing refers to some of them any more: whatever tidies up may take those away.

        Args:
            repair: the repair.
            events: what it did with them.
        """
        found: dict[str, int] = {}
        for ids in batches(events, _AT_ONCE):
            found |= await self._database.run(
                "groups_before", _groups_before, repair.job_id, ids, events
            )
        return found

    @override
    async def obstacle(self, repair: RepairJob, events: Done) -> RepairError | None:
        anew = [i for i, actions in events.items() if STORED_ANEW & {*actions}]
        if gone := await self._gone(repair, anew):
            return EventsGone(repair.job_id, tuple(gone))
        if anew and not await self._others(repair):
            return NothingLeft(repair.job_id)
        if builders := await self._builders(repair, events):
            return BuiltUpon(repair.job_id, tuple(builders))
        return None

    async def _gone(self, repair: RepairJob, anew: Collection[str]) -> list[str]:
        """Those of the events that were purged since: of state events, outliers are left."""
        stored = dict(
            await self._database.rows_of(
                "still_stored", "SELECT event_id, outlier FROM events WHERE", anew, "event_id"
            )
        )
        found = [i for i in anew if i not in stored]
        for ids in batches((i for i, outlier in stored.items() if outlier), _AT_ONCE):
            found += await self._database.run("outliers", _not_outliers, repair.job_id, ids)
        return sorted(found)

    async def _others(self, repair: RepairJob) -> bool:
        """Whether the room has accepted events besides those that the repair stored anew."""
        clause, args = self._database.in_list("j.action", [a.value for a in STORED_ANEW])
        rows = await self._database.rows(
            "others",
            "SELECT e.event_id FROM events AS e"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE e.room_id = ? AND NOT e.outlier AND r.event_id IS NULL AND NOT EXISTS ("
            f"  SELECT 1 FROM {JOURNAL} AS j"
            f"   WHERE j.job_id = ? AND j.event_id = e.event_id AND {clause}) LIMIT 1",
            (repair.room_id, repair.job_id, *args),
        )
        return bool(rows)

    async def _builders(self, repair: RepairJob, events: Done) -> list[str]:
        """The events accepted since that follow or cite what the repair received, and so on."""
        received = {i for i, actions in events.items() if Action.RECEIVE in actions}
        # What follows these has their new state, and what was received in it.
        changed = {i for i, actions in events.items() if Action.RESTATE in actions} | received
        if not changed:
            return []
        since = repair.started_ts or repair.created_ts
        following = await self._database.rows_of(
            "following",
            "SELECT DISTINCT e.event_id, e.received_ts FROM event_edges AS ee"
            " INNER JOIN events AS e ON e.event_id = ee.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE r.event_id IS NULL AND",
            changed,
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
        found -= events.keys()
        if found:
            found.update(await self._dag.far_behind(sorted(found)[:_AT_ONCE]))
        return sorted(found - events.keys())


def _not_outliers(txn: LoggingTransaction, job_id: str, event_ids: Sequence[str]) -> list[str]:
    """Those of the events that were none before the repair."""
    return [
        event_id
        for action in STORED_ANEW
        for event_id, rows in originals(txn, job_id, event_ids, action.value).items()
        if not any(row["outlier"] for row in rows.get("events", ()))
    ]


def _groups_before(
    txn: LoggingTransaction, job_id: str, event_ids: Sequence[str], events: Done
) -> dict[str, int]:
    groups: dict[str, int] = dict(originals(txn, job_id, event_ids, Action.RESTATE.value))
    for action in (Action.RECEIVE, Action.REJECT):
        ids = [i for i in event_ids if action in events[i]]
        for event_id, rows in originals(txn, job_id, ids, action.value).items():
            groups.update((event_id, r["state_group"]) for r in rows.get(STATE, ()))
    return groups
