"""Noticed rejections and alerts, in the module's own tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Sequence, Set

import attr
from synapse.storage.database import LoggingTransaction
from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.failures import raise_unless_of_an_event
from synapse_rejection_repair.adapter.tables import ALERTS, SEEN
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.traces import trace
from synapse_rejection_repair.domain.watch import (
    Alert,
    Begun,
    Behind,
    Recorded,
    Rejection,
    Seen,
    newest,
    raised,
    roots_behind,
)
from synapse_rejection_repair.ports_watch import WatchStore

logger = logging.getLogger(__name__)

KEPT = 1000
"""How many alerts are kept of one room, and how many rejections besides those."""

_LEVELS = 20
"""How far up the roots of an event are looked for.

Events that were recorded know their roots, so this is only met in what was rejected unnoticed.
"""

_COLUMNS = "room_id, event_id, failed_check, error, first_ts, alerted_ts, cascade, repair_id"


class SynapseWatchStore(WatchStore):
    """Keeps rejections and alerts in Synapse's database.

    Args:
        database: Synapse's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def record(self, rejections: Sequence[Rejection]) -> None:
        try:
            await self._database.run_beside_others("record_seen", self._record, rejections)
        except Exception as e:
            raise_unless_of_an_event(self._database, e)
            if len(rejections) == 1:
                # Rather one that is not noticed than none from now on.
                lost = rejections[0].event_id
                logger.error("That %s was rejected is not recorded\n%s", lost, trace(e))
                return
            for rejection in rejections:
                await self.record([rejection])

    def _record(self, txn: LoggingTransaction, rejections: Sequence[Rejection]) -> None:
        ancestry = self._ancestry(txn, rejections)
        # In one order in every process: no two wait for each other.
        ordered = sorted(rejections, key=lambda r: r.event_id)
        txn.execute_batch(
            f"INSERT INTO {SEEN} (event_id, room_id, failed_check, error, ts, roots)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
            [
                (
                    r.event_id,
                    r.room_id,
                    r.check,
                    r.error,
                    r.ts,
                    json.dumps(roots_behind(ancestry[r.event_id].parents, ancestry)),
                )
                for r in ordered
            ],
        )

    @override
    async def forget_oldest(self, room_id: str) -> None:
        def forget(txn: LoggingTransaction) -> None:
            txn.execute(
                f"DELETE FROM {SEEN} WHERE event_id IN (SELECT s.event_id FROM {SEEN} AS s"
                f" LEFT JOIN {ALERTS} AS a ON a.event_id = s.event_id"
                " WHERE s.room_id = ? AND a.event_id IS NULL"
                " ORDER BY s.ts DESC, s.event_id DESC LIMIT 100000 OFFSET ?)",
                (room_id, KEPT),
            )

        await self._database.run_beside_others("forget_seen", forget)

    def _ancestry(
        self, txn: LoggingTransaction, rejections: Sequence[Rejection]
    ) -> dict[str, Behind]:
        cited = dict.fromkeys(a for r in rejections for a in r.auth_event_ids)
        rejected = self._rejected(txn, cited)
        found = {
            r.event_id: Behind(parents=tuple(a for a in r.auth_event_ids if a in rejected))
            for r in rejections
        }
        level = rejected - found.keys()
        for _ in range(_LEVELS):
            if not level:
                break
            found.update(self._behind(txn, level))
            parents = {p for event_id in level for p in found[event_id].parents}
            level = parents - found.keys()
        return found

    def _behind(self, txn: LoggingTransaction, event_ids: Set[str]) -> dict[str, Behind]:
        recorded: dict[str, tuple[str, ...]] = {}
        parents: dict[str, list[str]] = {}
        for batch in batches(event_ids):
            clause, args = self._database.in_list("event_id", batch)
            txn.execute(f"SELECT event_id, roots FROM {SEEN} WHERE {clause}", args)
            recorded.update((event_id, tuple(json.loads(roots))) for event_id, roots in txn)
        # A repair may have accepted the roots since, and left the event.
        rejected = self._rejected(txn, {r for roots in recorded.values() for r in roots})
        known = {i: roots for i, roots in recorded.items() if rejected.issuperset(roots)}
        for batch in batches(event_ids - known.keys()):
            clause, args = self._database.in_list("ea.event_id", batch)
            txn.execute(
                "SELECT ea.event_id, ea.auth_id FROM event_auth AS ea"
                f" INNER JOIN rejections AS r ON r.event_id = ea.auth_id WHERE {clause}",
                args,
            )
            for event_id, parent in txn:
                parents.setdefault(event_id, []).append(parent)
        return {
            i: Behind(known.get(i), () if i in known else tuple(parents.get(i, ())))
            for i in event_ids
        }

    def _rejected(self, txn: LoggingTransaction, event_ids: Iterable[str]) -> set[str]:
        rejected: set[str] = set()
        for batch in batches(event_ids):
            clause, args = self._database.in_list("event_id", batch)
            txn.execute(f"SELECT event_id FROM rejections WHERE {clause}", args)
            rejected.update(event_id for (event_id,) in txn)
        return rejected

    @override
    async def recorded(self, event_ids: Collection[str]) -> dict[str, Recorded]:
        rows = await self._database.rows_of(
            "recorded",
            f"SELECT event_id, failed_check, error, ts FROM {SEEN} WHERE",
            event_ids,
            "event_id",
        )
        return {event_id: Recorded(*row) for event_id, *row in rows}

    @override
    async def seen(self, room_id: str) -> list[Seen]:
        rows = await self._database.rows(
            "seen", f"SELECT event_id, ts, roots FROM {SEEN} WHERE room_id = ?", (room_id,)
        )
        return [Seen(event_id, ts, tuple(json.loads(roots))) for event_id, ts, roots in rows]

    @override
    async def rooms_since(self, since_ts: int) -> list[str]:
        rows = await self._database.rows(
            "seen_rooms", f"SELECT DISTINCT room_id FROM {SEEN} WHERE ts >= ?", (since_ts,)
        )
        return [room_id for (room_id,) in rows]

    @override
    async def raise_alerts(self, room_id: str, begun: Sequence[Begun], now_ms: int) -> None:
        rows = await self._database.rows(
            "alerted", f"SELECT event_id, first_ts FROM {ALERTS} WHERE room_id = ?", (room_id,)
        )
        new, old = newest(begun, dict(rows), KEPT)
        if not new and not old:
            return
        recorded = await self.recorded([cascade.root for cascade in new])

        def write(txn: LoggingTransaction) -> None:
            rejected = self._rejected(txn, [cascade.root for cascade in new])
            # Whichever process is the first: the key keeps it at one alert.
            txn.execute_batch(
                f"INSERT INTO {ALERTS} ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (event_id) DO NOTHING",
                sorted(attr.astuple(a) for a in raised(room_id, new, rejected, recorded, now_ms)),
            )
            txn.execute_batch(
                f"DELETE FROM {ALERTS} WHERE event_id = ? AND announced_ts IS NOT NULL",
                [(event_id,) for event_id in old],
            )

        await self._database.run_beside_others("raise_alerts", write)

    @override
    async def page(self, page: Page, room_id: str | None) -> Listing[Alert]:
        where, args = ("room_id = ?", (room_id,)) if room_id is not None else ("TRUE", ())
        source, order = f"FROM {ALERTS} WHERE {where}", (page.order_by, "event_id")
        found = await self._database.page("alerts", _COLUMNS, source, args, page, order)
        return Listing([Alert(*row) for row in found.rows], found.total)

    @override
    async def unannounced(self) -> list[Alert]:
        rows = await self._database.rows(
            "unannounced",
            f"SELECT {_COLUMNS} FROM {ALERTS} WHERE announced_ts IS NULL"
            " ORDER BY alerted_ts, event_id LIMIT 1000",
        )
        return [Alert(*row) for row in rows]

    @override
    async def repaired_by(self, event_id: str, repair_id: str) -> None:
        def write(txn: LoggingTransaction) -> None:
            txn.execute(
                f"UPDATE {ALERTS} SET repair_id = ? WHERE event_id = ?", (repair_id, event_id)
            )

        await self._database.run("alert_repaired", write)

    @override
    async def announced(self, event_ids: Iterable[str], now_ms: int) -> None:
        def write(txn: LoggingTransaction) -> None:
            txn.execute_batch(
                f"UPDATE {ALERTS} SET announced_ts = ? WHERE event_id = ?",
                [(now_ms, event_id) for event_id in event_ids],
            )

        await self._database.run("announced", write)
