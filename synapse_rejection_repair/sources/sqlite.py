"""An old database in a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from typing_extensions import override

from synapse_rejection_repair.sources.connection import Connection, ConnectionFailed

_BUSY_SECONDS = 30.0


class SqliteConnection(Connection):
    """Reads a SQLite file, which is opened in a way that cannot write.

    Args:
        path: the file.
        immutable: nothing writes it any more. It is read without locks then, and without
            the files beside it that a database with a write-ahead log otherwise needs.
    """

    def __init__(self, path: str, *, immutable: bool = False) -> None:
        uri = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
        if immutable:
            uri += "&immutable=1"
            _require_no_log(path)
        try:
            # Used by one thread at a time, but not always by the same.
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False
            )
        except sqlite3.Error as e:
            raise _failure(e) from None
        # One text that is no UTF-8 would make its whole page unreadable. So it is another text, and
        # ids and hashes tell.
        self._connection.text_factory = partial(str, encoding="utf-8", errors="replace")

    @override
    def query(self, sql: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, args).fetchall()
        except sqlite3.Error as e:
            raise _failure(e) from None

    @override
    def columns(self, table: str) -> set[str]:
        return {row[0] for row in self.query("SELECT name FROM pragma_table_info(?)", (table,))}

    @override
    def close(self) -> None:
        self._connection.close()


def _require_no_log(path: str) -> None:
    # SQLite would not look at it, so a server that was killed would lack its last events.
    try:
        left = Path(path + "-wal").stat().st_size
    except OSError:
        return
    if left:
        raise ConnectionFailed(
            "its write-ahead log (-wal) beside it is not empty, and an immutable file is read"
            " without it"
        )


def _failure(error: sqlite3.Error) -> ConnectionFailed:
    # SQLite's own words could hold anything; these are known to hold no path.
    text = str(error)
    if "unable to open" in text:
        return ConnectionFailed("its file is not there, or may not be read by Synapse")
    if "locked" in text or "busy" in text:
        return ConnectionFailed("it is locked by another program")
    if "not a database" in text:
        return ConnectionFailed("its file is no SQLite database")
    # A file that is cut down to nothing is an empty database; that there were tables, who opened
    # it has seen.
    if any(words in text for words in ("malformed", "disk I/O", "no such table")):
        return ConnectionFailed("its file is damaged or truncated")
    return ConnectionFailed(f"SQLite refuses with {type(error).__name__}")
