"""Writing what can be searched for once for a transaction, not once for each event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.storage.databases.main.search import SearchEntry


class SearchEntries:
    """Hands Synapse the search entries of a transaction together, once the rest of it is written.

    On PostgreSQL each of them is a message to the database and an answer otherwise, for nearly
    every event. Wraps `SearchWorkerStore.store_search_entries_txn` on the object of this process
    (read in Synapse 1.151.0 and 1.163.2), which nothing else in such a transaction looks at.

    Args:
        hs: a homeserver process that writes events.
    """

    def __init__(self, hs: HomeServer) -> None:
        self._waiting: dict[LoggingTransaction, list[SearchEntry]] = {}
        store = hs.get_datastores().main
        self._store_txn = store.store_search_entries_txn
        store.store_search_entries_txn = self._take  # type: ignore[method-assign]

    @contextmanager
    def together(self, txn: LoggingTransaction) -> Iterator[None]:
        """Until it ends, what is written in a transaction for the search waits.

        Args:
            txn: the transaction.
        """
        entries = self._waiting[txn] = []
        try:
            yield
        finally:
            del self._waiting[txn]
        if entries:
            self._store_txn(txn, entries)

    def _take(self, txn: LoggingTransaction, entries: Iterable[SearchEntry]) -> None:
        if txn in self._waiting:
            self._waiting[txn].extend(entries)
        else:
            self._store_txn(txn, entries)
