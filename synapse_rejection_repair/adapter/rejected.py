"""Which events are rejected, remembered from one look to the next."""

from __future__ import annotations

import time
from typing import Any

from synapse.logging.context import make_deferred_yieldable
from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.storage.engines import PostgresEngine
from synapse.util.async_helpers import yieldable_gather_results
from synapse.util.duration import Duration
from twisted.internet.defer import DeferredLock

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.rejected import RejectedTable
from synapse_rejection_repair.ports import Clock

_AT_ONCE = 5000
"""How many events one query names at most."""

_SIDE_BY_SIDE = 3
"""How many of these queries are made at a time: on a cold disk each waits for most of its rows."""

_FEW = 200_000
"""How many rejected events are looked up before anybody asks, and kept: some 50 MB of them."""

_REMEMBERED = 600.0
"""For how long nobody needs to look until more of them are forgotten, in seconds."""

_REASONS = "SELECT event_id, reason FROM rejections"
_COUNT = "SELECT COUNT(*) FROM rejections"

_ROWS = """
    SELECT event_id, room_id, type, sender, origin_server_ts, depth FROM events WHERE"""


class RejectedEvents:
    """Knows all rejected events of the server, as they are in the database now.

    `rejections` has neither rooms nor times, and `events` no index for what is rejected: in
    SQL every page of a list would look every rejected event up. So they are looked up once,
    where they are few after the start, and after that only those that are new.

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
        self._looking = DeferredLock()

    async def table(self) -> RejectedTable:
        """The rejected events of all rooms."""
        # Whoever comes while they are looked up waits for that, and does not look as well.
        await make_deferred_yieldable(self._looking.acquire())
        try:
            return await self._look()
        finally:
            self._looking.release()

    async def warm(self) -> None:
        """Looks the rejected events up where they are few, so that the first request is quick."""
        ((count,),) = await self._database.rows("rejected_count", _COUNT)
        if count <= _FEW:
            await self.table()

    async def _look(self) -> RejectedTable:
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
        for some in batches(batches(reasons, _AT_ONCE), _SIDE_BY_SIDE):
            for rows in await yieldable_gather_results(self._rows, some):
                await self._breath.in_thread(table.add, [(*row, reasons[row[0]]) for row in rows])
        await self._breath.in_thread(table.prepare)
        return table

    async def _rows(self, event_ids: list[str]) -> list[tuple[Any, ...]]:
        clause, args = self._database.in_list("event_id", event_ids)
        return await self._database.rows("rejected_rows", f"{_ROWS} {clause}", args)

    def _reasons(self, txn: LoggingTransaction) -> dict[str, str]:
        txn.execute(_REASONS)
        return {event_id: reason for event_id, reason in txn}

    def _forget(self) -> None:
        left = self._looked + _REMEMBERED - time.monotonic()
        if left > 0 or len(self._table.event_ids) <= _FEW:
            again = left if left > 0 else _REMEMBERED
            self._clock.call_later(Duration(seconds=again), self._forget)
        else:
            self._stamp, self._table = None, RejectedTable()
