"""A Synapse module for tests alone: has the database explain every statement of our module.

Each line of the file that it writes is a JSON object, with a statement and, where that reads too
much of a large table, the table and how it is read.

PostgreSQL reads small tables whole, and rightly so: it is of use on a large database alone. SQLite
was never told how large its tables are (`ANALYZE`, which Synapse does not run), and plans for a
small database as for a large one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from synapse.module_api import ModuleApi
from synapse.storage.database import LoggingTransaction
from synapse.storage.engines import PostgresEngine

from synapse_rejection_repair.sources.sqlite import SqliteConnection

LARGE = frozenset(
    {
        "event_auth",
        "event_edges",
        "event_json",
        "event_to_state_groups",
        "events",
        "remote_media_cache",
    }
)
"""The tables that a test on PostgreSQL has to make large."""
# Without SQLite's search table: no index of it knows event ids.
_LARGE_ON_SQLITE = LARGE | {
    "event_relations",
    "local_media_repository",
    "local_media_repository_thumbnails",
    "redactions",
    "rejection_repair_journal",
    "remote_media_cache_thumbnails",
    "room_memberships",
    "state_events",
    "state_group_edges",
    "state_groups_state",
}
_OURS = "/synapse_rejection_repair/"
_EXPLAINED = ("SELECT", "WITH", "UPDATE", "DELETE", "INSERT")
_LIST = re.compile(r"\bIN \(\s*\?(\s*,\s*\?)*\s*\)")
_IDS = re.compile(r"(_id|redacts) IN \(\?")
_NAMED = re.compile(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+(\w+)(?:\s+AS\s+(\w+))?")
_READ = re.compile(r"(SCAN|SEARCH) (\w+)(?: USING .*?\((.*)\))?")


class Explain:
    """Wraps the way in which transactions, and what reads old databases, execute statements."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        self._report = Path(config["report"])
        self._seen: set[str] = set()
        execute, query = LoggingTransaction.execute, SqliteConnection.query
        execute_batch = LoggingTransaction.execute_batch

        def explained(txn: LoggingTransaction, sql: str, parameters: Any = ()) -> None:
            if sql.lstrip().startswith(_EXPLAINED) and _is_ours():
                self._ask(txn, sql, parameters)
            execute(txn, sql, parameters)

        def explained_batch(
            txn: LoggingTransaction, sql: str, args: Iterable[Iterable[Any]]
        ) -> None:
            rows = list(args)
            # All rows are found in the same way.
            if rows and sql.lstrip().startswith(_EXPLAINED) and _is_ours():
                self._ask(txn, sql, rows[0])
            execute_batch(txn, sql, rows)

        def explained_source(
            source: SqliteConnection, sql: str, args: Sequence[object] = ()
        ) -> list[tuple[Any, ...]]:
            if sql.lstrip().startswith(_EXPLAINED):
                self._ask_sqlite(source._connection, sql)
            return query(source, sql, args)

        LoggingTransaction.execute = explained  # type: ignore[method-assign,assignment]
        LoggingTransaction.execute_batch = explained_batch  # type: ignore[method-assign,assignment]
        SqliteConnection.query = explained_source  # type: ignore[method-assign,assignment]

    def _ask(self, txn: LoggingTransaction, sql: str, parameters: Any) -> None:
        if isinstance(txn.database_engine, PostgresEngine):
            self._ask_postgres(txn, sql, parameters)
        else:
            self._ask_sqlite(txn.txn, sql)

    def _ask_postgres(self, txn: LoggingTransaction, sql: str, parameters: Any) -> None:
        if self._knows(sql):
            return
        cursor: Any = txn.txn
        statement = txn.database_engine.convert_param_style(sql)
        cursor.execute("EXPLAIN (FORMAT JSON) " + statement, parameters)
        ((plans,),) = cursor.fetchall()
        self._note(sql, _whole(plans[0]["Plan"]))

    def _ask_sqlite(self, connection: Any, sql: str) -> None:
        sql = with_three(sql)
        if not self._knows(sql):
            self._note(sql, too_much(connection, sql))

    def _knows(self, sql: str) -> bool:
        known = sql in self._seen
        self._seen.add(sql)
        return known

    def _note(self, sql: str, found: Iterator[tuple[str, str]]) -> None:
        with self._report.open("a") as file:
            file.write(json.dumps({"statement": sql}) + "\n")
            for table, how in found:
                file.write(json.dumps({"table": table, "how": how, "statement": sql}) + "\n")


def with_three(sql: str) -> str:
    """A statement with three items in each of its lists: for fewer, SQLite may plan otherwise."""
    return _LIST.sub("IN (?, ?, ?)", sql)


def too_much(database: Any, sql: str) -> Iterator[tuple[str, str]]:
    """What in SQLite's plan reads a large table whole or, asked for a few ids, all of a room.

    Args:
        database: A connection or a cursor.
        sql: The statement.

    Yields:
        A table, and how SQLite would read it.
    """
    tables = {alias or table: table for table, alias in _NAMED.findall(sql)}
    rows = database.execute("EXPLAIN QUERY PLAN " + sql, [None] * sql.count("?")).fetchall()
    for *_, how in rows:
        found = _READ.match(how)
        if found is None:
            continue
        kind, name, narrowed_by = found.groups()
        table = tables.get(name, name)
        if table in _LARGE_ON_SQLITE and (
            kind == "SCAN" or (_IDS.search(sql) and _only_room(narrowed_by or ""))
        ):
            yield table, how


def _only_room(narrowed_by: str) -> bool:
    return all(part.startswith("room_id") for part in narrowed_by.split(" AND "))


def _is_ours() -> bool:
    frame: Any = sys._getframe(2)
    for _ in range(12):
        if frame is None:
            return False
        if _OURS in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _whole(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What in a plan reads a large table from its beginning to its end."""
    table, how = plan.get("Relation Name"), plan["Node Type"]
    by_index = how in ("Index Scan", "Index Only Scan", "Bitmap Heap Scan")
    narrowed = any(key in plan for key in ("Index Cond", "Recheck Cond"))
    if table in LARGE and "Scan" in how and not (by_index and narrowed):
        yield table, how
    for below in plan.get("Plans", ()):
        yield from _whole(below)
