"""The journal: what was there of an event before a job did something with it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from synapse.storage.database import LoggingTransaction, make_in_list_sql_clause

from synapse_rejection_repair.adapter.tables import JOURNAL
from synapse_rejection_repair.domain.batches import batches


def journal(
    txn: LoggingTransaction,
    job_id: str,
    action: str,
    now_ms: int,
    was: Iterable[tuple[str, object]],
) -> None:
    """Writes what was before an action into the journal, the first time that it is done.

    Args:
        txn: the transaction that also does it.
        job_id: the job that does it.
        action: what it does.
        now_ms: the time, in milliseconds.
        was: each event's id and what was there of it, as JSON can hold it.
    """
    rows = ((job_id, i, action, now_ms, json.dumps(rows, default=_text)) for i, rows in was)
    for some in batches(rows):
        txn.execute(
            f"INSERT INTO {JOURNAL} (job_id, event_id, action, ts, original_rows)"
            f" VALUES {', '.join('(?, ?, ?, ?, ?)' for _ in some)} ON CONFLICT DO NOTHING",
            [value for row in some for value in row],
        )


def originals(
    txn: LoggingTransaction, job_id: str, event_ids: Iterable[str], action: str
) -> dict[str, Any]:
    """What the journal has kept of those of some events with which a job did something."""
    found: dict[str, Any] = {}
    for event_id in event_ids:
        txn.execute(
            f"SELECT original_rows FROM {JOURNAL} WHERE job_id = ? AND event_id = ? AND action = ?",
            (job_id, event_id, action),
        )
        found.update((event_id, json.loads(kept)) for (kept,) in txn.fetchall())
    return found


def journalled(
    txn: LoggingTransaction, job_id: str, event_ids: Collection[str], action: str
) -> set[str]:
    """Those of some events with which a job has done something already."""
    known: set[str] = set()
    for some in batches(event_ids):
        clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", some)
        txn.execute(
            f"SELECT event_id FROM {JOURNAL} WHERE job_id = ? AND action = ? AND {clause}",
            (job_id, action, *args),
        )
        known.update(event_id for (event_id,) in txn.fetchall())
    return known


def _text(value: object) -> str:
    return bytes(value).decode() if isinstance(value, (bytes, memoryview)) else str(value)
