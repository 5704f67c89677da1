"""How much SQLite keeps in memory, and in its write-ahead log, while much is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from synapse.storage.database import LoggingTransaction

from synapse_rejection_repair.adapter.database import Database

_WHILE_STORING = {"cache_size": -49_152, "wal_autocheckpoint": 16_000}
"""The settings of SQLite's (its documentation, "PRAGMA Statements"): 48 MB instead of 2, and a
checkpoint after 16,000 pages instead of 1,000.

The ids of events are random, so each event that is stored touches another page of each index,
which does not fit into 2 MB for long, and which a checkpoint writes to its place again and again.
Chosen with `bench.import_growth`.
"""


@asynccontextmanager
async def larger_page_cache(database: Database) -> AsyncIterator[None]:
    """While it lasts, SQLite is ready for much that is stored. PostgreSQL sees to that itself.

    The settings are the connection's: whatever becomes of the process, the next has Synapse's.

    Args:
        database: Synapse's, of which a process has one connection where it is SQLite.
    """
    if not database.shared_connection:
        yield
        return
    before = await database.run("page_cache", _exchange, _WHILE_STORING)
    try:
        yield
    finally:
        await database.run("page_cache", _exchange, before)


def _exchange(txn: LoggingTransaction, settings: Mapping[str, int]) -> dict[str, int]:
    before: dict[str, int] = {}
    for name, value in settings.items():
        txn.execute(f"PRAGMA {name}")
        ((before[name],),) = txn.fetchall()
        txn.execute(f"PRAGMA {name} = {value:d}")
    return before
