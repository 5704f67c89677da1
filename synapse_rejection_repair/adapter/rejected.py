"""Which events are rejected, remembered from one look to the next."""

from __future__ import annotations

import time
from typing import Any

from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.storage.engines import PostgresEngine
from synapse.util.duration import Duration

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.rejected import RejectedTable
from synapse_rejection_repair.ports import Clock

_AT_ONCE = 5000
"""How many events one query names at most."""

_REMEMBERED = 600.0
"""For how long nobody needs to look until all is forgotten, in seconds."""

_REASONS = "SELECT event_id, reason FROM rejections"

_ROWS = """
    SELECT event_id, room_id, type, sender, origin_server_ts, depth FROM events WHERE"""


class RejectedEvents:
    """Knows all rejected events of the server, as they are in the database now.

    `rejections` has neither rooms nor times, and `events` no index for what is rejected: in
    SQL every page of a list would look every rejected event up. So they are looked up once,
    and after that only those that are new.

    Args:
        hs: the homeserver.
        database: its main database.
        clock: lets the server breathe.
    """

    def __init__(self, hs: HomeServer, database: Database, clock: Clock) -> None:
        self._clock = hs.get_clock()
        self._database = database
        self._breath = clock
        self._stamp: tuple[Any, ...] | None = None
        self._table = RejectedTable()
        self._looked = 0.0

    async def table(self) -> RejectedTable:
        """The rejected events of all rooms."""
        self._looked = time.monotonic()
        stamp = await self._database.run("rejected_stamp", self._read_stamp)
        if stamp != self._stamp:
            table = await self._read(self._table)
            if self._stamp is None:
                self._clock.call_later(Duration(seconds=_REMEMBERED), self._forget)
            self._stamp, self._table = stamp, table
        return self._table

    def _read_stamp(self, txn: LoggingTransaction) -> tuple[Any, ...]:
        """What is another after any change of what is rejected."""
        if isinstance(self._database.engine, PostgresEngine):
            txn.execute("SELECT COUNT(*), SUM(hashtext(event_id || reason)) FROM rejections")
            return txn.fetchall()[0]
        txn.execute(_REASONS)
        count = total = 0
        for row in txn:
            count += 1
            total += hash(row)
        return count, total

    async def _read(self, known: RejectedTable) -> RejectedTable:
        reasons = await self._database.run("rejected", self._reasons)
        table = await self._breath.in_thread(known.still, reasons)
        for event_id in table.event_ids:
            del reasons[event_id]
        for batch in batches(reasons, _AT_ONCE):
            clause, args = self._database.in_list("event_id", batch)
            rows = await self._database.rows("rejected_rows", f"{_ROWS} {clause}", args)
            await self._breath.in_thread(table.add, [(*row, reasons[row[0]]) for row in rows])
        return table

    def _reasons(self, txn: LoggingTransaction) -> dict[str, str]:
        txn.execute(_REASONS)
        return {event_id: reason for event_id, reason in txn}

    def _forget(self) -> None:
        left = self._looked + _REMEMBERED - time.monotonic()
        if left > 0:
            self._clock.call_later(Duration(seconds=left), self._forget)
        else:
            self._stamp, self._table = None, RejectedTable()
