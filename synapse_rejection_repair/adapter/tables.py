"""The module's own tables in Synapse's database."""

from __future__ import annotations

from synapse.storage.database import LoggingTransaction

JOBS = "rejection_repair_jobs"
JOURNAL = "rejection_repair_journal"

LAST_CREATED = f"{JOURNAL}_event"
"""What is there only if all is: what is added to the schema comes before it."""

_SCHEMA = (
    f"""
    CREATE TABLE IF NOT EXISTS {JOBS} (
        job_id TEXT NOT NULL PRIMARY KEY,
        kind TEXT NOT NULL,
        room_id TEXT NOT NULL,
        status TEXT NOT NULL,
        request TEXT NOT NULL,
        progress TEXT NOT NULL,
        error TEXT,
        created_ts BIGINT NOT NULL,
        started_ts BIGINT,
        finished_ts BIGINT,
        cancel_requested SMALLINT NOT NULL
    )""",
    # What keeps two jobs out of one room, whichever processes they are asked of.
    f"""
    CREATE UNIQUE INDEX IF NOT EXISTS {JOBS}_one_per_room ON {JOBS} (room_id)
    WHERE status IN ('scheduled', 'active')""",
    f"CREATE INDEX IF NOT EXISTS {JOBS}_room ON {JOBS} (room_id, created_ts)",
    f"""
    CREATE TABLE IF NOT EXISTS {JOURNAL} (
        job_id TEXT NOT NULL,
        event_id TEXT NOT NULL,
        action TEXT NOT NULL,
        ts BIGINT NOT NULL,
        original_rows TEXT NOT NULL,
        PRIMARY KEY (job_id, event_id, action)
    )""",
    f"CREATE INDEX IF NOT EXISTS {LAST_CREATED} ON {JOURNAL} (event_id)",
)


def create_tables(txn: LoggingTransaction) -> None:
    """Creates what of the module's tables is missing."""
    for sql in _SCHEMA:
        txn.execute(sql)
