"""Which events have a state that was taken from another server, in the module's own table."""

from __future__ import annotations

from collections.abc import Collection

from synapse.storage.database import LoggingTransaction

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.tables import STATES
from synapse_rejection_repair.domain.repair import RepairJob


async def borrowed_in(database: Database, room_id: str) -> frozenset[str]:
    """The events of a room whose stored state was taken from another server.

    Some of them may have been rejected again since.
    """
    rows = await database.rows(
        "borrowed", f"SELECT event_id FROM {STATES} WHERE room_id = ?", (room_id,)
    )
    return frozenset(event_id for (event_id,) in rows)


def note_borrowed(
    txn: LoggingTransaction,
    job: RepairJob,
    stored: Collection[str],
    borrowed: Collection[str],
    now_ms: int,
) -> None:
    """Notes whose state was taken from another server, of events that are stored anew.

    Args:
        txn: the transaction that stores them.
        job: the job that does it.
        stored: the events.
        borrowed: those whose state was.
        now_ms: the time in milliseconds.
    """
    txn.execute_batch(f"DELETE FROM {STATES} WHERE event_id = ?", [(i,) for i in stored])
    txn.execute_batch(
        f"INSERT INTO {STATES} (event_id, room_id, job_id, server, ts) VALUES (?, ?, ?, ?, ?)",
        [
            (i, job.room_id, job.job_id, job.request.state_from, now_ms)
            for i in stored
            if i in borrowed
        ],
    )
