"""Running queries on Synapse's main database, in batches and off the reactor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Any, TypeVar

from synapse.server import HomeServer
from synapse.storage.database import DatabasePool, LoggingTransaction, make_in_list_sql_clause
from synapse.storage.engines import PostgresEngine
from synapse.storage.engines._base import IsolationLevel

from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.listing import Listing, Page

T = TypeVar("T")
_PORTION = 1000
"""How many rows are taken out of a result at a time."""

_FULL = "The database has no room left on its disk"
_LOCKED = "Somebody else keeps the database locked"
_OF_SQLITE = {
    "is locked": _LOCKED,
    "is full": _FULL,
    "disk I/O error": "The database's disk fails",
    "unable to open": "The database's file cannot be opened",
    "readonly": "The database's file cannot be written to",
}
"""What to say of messages of SQLite's that hold these words."""
_OF_POSTGRES = {
    "40001": _LOCKED,
    "40P01": _LOCKED,
    "53100": _FULL,
    "53200": "The database's server is out of memory",
    "53300": "The database's server has too many clients",
    "55P03": _LOCKED,
    "57014": "The database's server ended a statement that took too long",
}
"""What to say of PostgreSQL's error codes (PostgreSQL documentation, appendix A)."""
_GONE = "The database cannot be reached"
_OF_POSTGRES_CLASSES = {
    "08": _GONE,
    "53": "The database's server lacks what it needs",
    "57": _GONE,
    "58": "The database's server has trouble with its system",
}
"""What to say of their first two characters."""


class Database:
    """Synapse's main database.

    Args:
        hs: the homeserver.
    """

    def __init__(self, hs: HomeServer) -> None:
        self.pool: DatabasePool = hs.get_datastores().main.db_pool
        self.engine = self.pool.engine

    @property
    def shared_connection(self) -> bool:
        """Whether every transaction of the server waits for every other, as on SQLite."""
        return not isinstance(self.engine, PostgresEngine)

    def trouble(self, error: Exception) -> str | None:
        """What is wrong with the database for the time being, if an error tells of that.

        Not in the database's own words, which can hold anything.

        Args:
            error: what a transaction has raised.
        """
        module = self.engine.module
        if not isinstance(error, (module.OperationalError, module.InterfaceError)):
            return None
        if isinstance(self.engine, PostgresEngine):
            code = getattr(error, "pgcode", None)
            if code is None:
                # The driver's own word, not the server's, whose errors have classes of their own.
                plain = type(error) in (module.OperationalError, module.InterfaceError)
                return _GONE if plain else None
            # What a statement asks for may be refused for ever with an OperationalError, too.
            return _OF_POSTGRES.get(code, _OF_POSTGRES_CLASSES.get(code[:2]))
        return next((words for part, words in _OF_SQLITE.items() if part in str(error)), None)

    async def run(self, desc: str, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs a function in a transaction, in a database thread.

        Args:
            desc: what Synapse's metrics and logs call the transaction.
            func: called with the transaction and the arguments; may be called again
                where the database asks for it, so it must not keep anything in memory.
            *args: what else the function is called with.
            **kwargs: likewise.
        """
        result: T = await self.pool.runInteraction(
            f"rejection_repair_{desc}", func, *args, **kwargs
        )
        return result

    async def run_beside_others(self, desc: str, func: Callable[..., T], *args: Any) -> T:
        """As `run`, for rows that several processes write at a time.

        Each statement sees what was committed before it (PostgreSQL documentation, 13.2.1), so
        that a row which another process has just written is no error that Synapse has to begin
        the transaction anew for.

        Args:
            desc: what Synapse's metrics and logs call the transaction.
            func: called with the transaction and the arguments; must hold if what it reads
                changes from one of its statements to the next.
            *args: what else the function is called with.
        """
        result: T = await self.pool.runInteraction(
            f"rejection_repair_{desc}", func, *args, isolation_level=IsolationLevel.READ_COMMITTED
        )
        return result

    async def rows(self, desc: str, sql: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one query."""

        def query(txn: LoggingTransaction) -> list[tuple[Any, ...]]:
            txn.execute(sql, args)
            found: list[tuple[Any, ...]] = []
            # Not all at once: the server stands still while a driver makes rows of a result.
            while rows := txn.fetchmany(_PORTION):
                found += rows
            return found

        return await self.run(desc, query)

    async def ids(self, desc: str, sql: str, args: Sequence[object] = ()) -> list[str]:
        """The one column of a query's rows: a row for each of very many would hold the reactor."""

        def query(txn: LoggingTransaction) -> list[str]:
            txn.execute(sql, args)
            found: list[str] = []
            while rows := txn.fetchmany(_PORTION):
                found += [event_id for (event_id,) in rows]
            return found

        return await self.run(desc, query)

    async def rows_of(
        self, desc: str, sql: str, ids: Collection[str | int], column: str
    ) -> list[tuple[Any, ...]]:
        """The rows of a query that ends in a list of ids, a batch of ids at a time.

        Args:
            desc: what the transaction is called.
            sql: the query up to the condition on the column.
            ids: the ids.
            column: the column that holds them.
        """
        found: list[tuple[Any, ...]] = []
        # One by one where none is there twice: there may be a hundred thousand.
        once = ids if isinstance(ids, (Set, Mapping)) else dict.fromkeys(ids)
        for batch in batches(once):
            clause, args = self.in_list(column, batch)
            found += await self.rows(desc, f"{sql} {clause}", args)
        return found

    async def page(
        self,
        desc: str,
        columns: str,
        source: str,
        args: Sequence[object],
        page: Page,
        order: Sequence[str],
    ) -> Listing[tuple[Any, ...]]:
        """A page of the rows of a query.

        Args:
            desc: what the transactions are called.
            columns: what is selected.
            source: the query from its `FROM` on, up to its order.
            args: its arguments.
            page: the part of it that is wanted.
            order: the columns to sort by, which tell all rows apart.
        """
        direction = "DESC" if page.backwards else "ASC"
        by = ", ".join(f"{column} {direction}" for column in order)
        rows = await self.rows(
            f"list_{desc}",
            f"SELECT {columns} {source} ORDER BY {by} LIMIT ? OFFSET ?",
            (*args, page.limit, page.start),
        )
        ((total,),) = await self.rows(f"count_{desc}", f"SELECT COUNT(*) {source}", args)
        return Listing(rows, total)

    def in_list(self, column: str, ids: Collection[str | int]) -> tuple[str, list[Any]]:
        """The SQL condition that a column holds one of the ids, and its arguments."""
        clause, args = make_in_list_sql_clause(self.engine, column, ids)
        return clause, list(args)
