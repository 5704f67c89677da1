"""What imports have left out, as the journal keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from synapse.storage.database import LoggingTransaction
from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.journal import journal, journalled
from synapse_rejection_repair.adapter.tables import JOURNAL
from synapse_rejection_repair.domain.imports import Skip, Skipped
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.media import MediaSkip, Mxc, SkippedMedium
from synapse_rejection_repair.ports_imports import SkippedList

T = TypeVar("T")

SKIPPED = "skip"
"""What the journal calls it when an event is left out."""

SKIPPED_MEDIUM = "skip_media"
"""What the journal calls it when a medium is left out; its URI stands for the event."""


_COLUMNS = {"ts": "ts", "event_id": "event_id", "mxc": "event_id"}


def note_skipped(
    txn: LoggingTransaction, job_id: str, now_ms: int, skipped: Sequence[Skipped]
) -> list[Skipped]:
    """Notes what an import has left out; gives what of that it had not noted before.

    After a kill, what was read and not passed is read again.

    Args:
        txn: the transaction that stores what is stored of it.
        job_id: the import.
        now_ms: the time, in milliseconds.
        skipped: the events.
    """
    known = journalled(txn, job_id, [s.event_id for s in skipped], SKIPPED)
    new = [s for s in skipped if s.event_id not in known]
    why = [(s.event_id, {"reason": s.reason.value, "error": s.error}) for s in new]
    journal(txn, job_id, SKIPPED, now_ms, why)
    return new


class SynapseSkippedList(SkippedList):
    """Reads what imports have left out, or stored as rejected.

    Args:
        database: Synapse's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def page(self, job_id: str, page: Page) -> Listing[Skipped]:
        return await self._page(
            job_id, SKIPPED, page, lambda i, why: Skipped(i, Skip(why["reason"]), why["error"])
        )

    @override
    async def media(self, job_id: str, page: Page) -> Listing[SkippedMedium]:
        return await self._page(
            job_id,
            SKIPPED_MEDIUM,
            page,
            lambda uri, why: SkippedMedium(Mxc.parse(uri), MediaSkip(why["reason"])),
        )

    async def _page(
        self, job_id: str, action: str, page: Page, row: Callable[[str, Any], T]
    ) -> Listing[T]:
        source = f"FROM {JOURNAL} WHERE job_id = ? AND action = ?"
        found = await self._database.page(
            "skipped",
            "event_id, original_rows",
            source,
            (job_id, action),
            page,
            (_COLUMNS[page.order_by], "event_id"),
        )
        return Listing([row(what, json.loads(why)) for what, why in found.rows], found.total)
