"""A Synapse module for tests alone: has PostgreSQL explain every statement of our module.

PostgreSQL reads small tables whole, and rightly so: this is of use on a large database alone. Each
line of the file is a JSON object, with a statement and, where that reads a large table whole, the
table and how it is read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synapse.module_api import ModuleApi
from synapse.storage.database import LoggingTransaction

LARGE = frozenset({"events", "event_json", "event_auth", "event_edges", "event_to_state_groups"})
_OURS = "/synapse_rejection_repair/"
_EXPLAINED = ("SELECT", "WITH", "UPDATE", "DELETE", "INSERT")


class Explain:
    """Wraps the way in which transactions execute statements."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        self._report = Path(config["report"])
        self._seen: set[str] = set()
        execute = LoggingTransaction.execute

        def explained(txn: LoggingTransaction, sql: str, parameters: Any = ()) -> None:
            if sql.lstrip().startswith(_EXPLAINED) and _is_ours() and sql not in self._seen:
                self._seen.add(sql)
                self._explain(txn, sql, parameters)
            execute(txn, sql, parameters)

        LoggingTransaction.execute = explained  # type: ignore[method-assign,assignment]

    def _explain(self, txn: LoggingTransaction, sql: str, parameters: Any) -> None:
        cursor: Any = txn.txn
        statement = txn.database_engine.convert_param_style(sql)
        cursor.execute("EXPLAIN (FORMAT JSON) " + statement, parameters)
        ((plans,),) = cursor.fetchall()
        with self._report.open("a") as file:
            file.write(json.dumps({"statement": sql}) + "\n")
            for table, how in _whole(plans[0]["Plan"]):
                file.write(json.dumps({"table": table, "how": how, "statement": sql}) + "\n")


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
