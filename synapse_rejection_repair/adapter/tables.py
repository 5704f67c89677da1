"""The module's own tables in Synapse's database."""

from __future__ import annotations

from synapse.storage.database import LoggingTransaction
from synapse.storage.engines import PostgresEngine

JOBS = "rejection_repair_jobs"
JOURNAL = "rejection_repair_journal"
SEEN = "rejection_repair_seen"
ALERTS = "rejection_repair_alerts"
STATES = "rejection_repair_states"

_LOCK = 0x72656A656374
"""What the advisory lock is called, in PostgreSQL's way: a number that is nobody else's."""

_SCHEMA = {
    JOBS: f"""
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
    f"{JOBS}_one_per_room": f"""
    CREATE UNIQUE INDEX IF NOT EXISTS {JOBS}_one_per_room ON {JOBS} (room_id)
    WHERE status IN ('scheduled', 'active')""",
    f"{JOBS}_room": f"CREATE INDEX IF NOT EXISTS {JOBS}_room ON {JOBS} (room_id, created_ts)",
    JOURNAL: f"""
    CREATE TABLE IF NOT EXISTS {JOURNAL} (
        job_id TEXT NOT NULL,
        event_id TEXT NOT NULL,
        action TEXT NOT NULL,
        ts BIGINT NOT NULL,
        original_rows TEXT NOT NULL,
        PRIMARY KEY (job_id, event_id, action)
    )""",
    f"{JOURNAL}_event": f"CREATE INDEX IF NOT EXISTS {JOURNAL}_event ON {JOURNAL} (event_id)",
    SEEN: f"""
    CREATE TABLE IF NOT EXISTS {SEEN} (
        event_id TEXT NOT NULL PRIMARY KEY,
        room_id TEXT NOT NULL,
        failed_check TEXT,
        error TEXT NOT NULL,
        ts BIGINT NOT NULL,
        roots TEXT NOT NULL
    )""",
    f"{SEEN}_room": f"CREATE INDEX IF NOT EXISTS {SEEN}_room ON {SEEN} (room_id, ts)",
    ALERTS: f"""
    CREATE TABLE IF NOT EXISTS {ALERTS} (
        event_id TEXT NOT NULL PRIMARY KEY,
        room_id TEXT NOT NULL,
        failed_check TEXT,
        error TEXT,
        first_ts BIGINT NOT NULL,
        alerted_ts BIGINT NOT NULL,
        cascade BIGINT NOT NULL,
        repair_id TEXT,
        announced_ts BIGINT
    )""",
    f"{ALERTS}_room": f"CREATE INDEX IF NOT EXISTS {ALERTS}_room ON {ALERTS} (room_id)",
    # The events whose stored state was taken from another server, and does not follow from the
    # events before them: nothing may take it for an error.
    STATES: f"""
    CREATE TABLE IF NOT EXISTS {STATES} (
        event_id TEXT NOT NULL PRIMARY KEY,
        room_id TEXT NOT NULL,
        job_id TEXT NOT NULL,
        server TEXT NOT NULL,
        ts BIGINT NOT NULL
    )""",
    f"{STATES}_room": f"CREATE INDEX IF NOT EXISTS {STATES}_room ON {STATES} (room_id)",
    # Asked for every few seconds, and nearly always empty.
    f"{ALERTS}_unannounced": f"""
    CREATE INDEX IF NOT EXISTS {ALERTS}_unannounced ON {ALERTS} (alerted_ts)
    WHERE announced_ts IS NULL""",
}

_ADDED = ((ALERTS, "repair_id", "TEXT"),)
"""Columns that tables of an earlier version lack, each with its type."""


def create_tables(txn: LoggingTransaction) -> None:
    """Creates what of the module's tables is missing, whoever else does at the same time."""
    postgres = isinstance(txn.database_engine, PostgresEngine)
    if postgres:
        # All processes start at once, and all but one would fail to create what they all miss.
        txn.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
    for name, sql in _SCHEMA.items():
        # PostgreSQL locks a table even to find that its index is there: a process that starts
        # would stand in the way of another's job.
        if not (postgres and _exists(txn, name)):
            txn.execute(sql)
    for table, column, kind in _ADDED:
        if column not in _columns(txn, table, postgres):
            # The transaction may have begun before another process made the table.
            unless = "IF NOT EXISTS " if postgres else ""
            txn.execute(f"ALTER TABLE {table} ADD COLUMN {unless}{column} {kind}")


def _columns(txn: LoggingTransaction, table: str, postgres: bool) -> set[str]:
    source = (
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(?) AND NOT attisdropped"
        if postgres
        else "SELECT name FROM pragma_table_info(?)"
    )
    txn.execute(source, (table,))
    return {name for (name,) in txn.fetchall()}


def _exists(txn: LoggingTransaction, name: str) -> bool:
    txn.execute("SELECT to_regclass(?) IS NOT NULL", (name,))
    row = txn.fetchone()
    return bool(row and row[0])
