"""An old database in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2
from typing_extensions import override

from synapse_rejection_repair.sources.connection import Connection, ConnectionFailed

_NOT_FOR_CONNECTING = ("allow_unsafe_locale",)
"""What Synapse's `database.args` may hold that is not handed to psycopg2, beside `cp_…`."""


class PostgresConnection(Connection):
    """Reads a PostgreSQL database, in one read-only transaction that sees one moment of it.

    Args:
        args: what psycopg2 is told to connect, as Synapse's `database.args` has it.
    """

    def __init__(self, args: Mapping[str, Any]) -> None:
        wanted = {
            key: value
            for key, value in args.items()
            if not key.startswith("cp_") and key not in _NOT_FOR_CONNECTING
        }
        try:
            self._connection = psycopg2.connect(**wanted)
            self._connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        except (psycopg2.Error, TypeError) as e:
            raise _failure(e) from None

    @override
    def query(self, sql: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql.replace("%", "%%").replace("?", "%s"), tuple(args))
                rows: list[tuple[Any, ...]] = cursor.fetchall()
                return rows
        except psycopg2.Error as e:
            if self._connection.closed:
                raise ConnectionFailed("PostgreSQL has ended the connection") from None
            raise _failure(e) from None

    @override
    def columns(self, table: str) -> set[str]:
        rows = self.query(
            "SELECT attname FROM pg_attribute"
            " WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped",
            (table,),
        )
        return {name for (name,) in rows}

    @override
    def close(self) -> None:
        self._connection.close()


def _failure(error: Exception) -> ConnectionFailed:
    # PostgreSQL's own words name the host, the user and the database.
    code = getattr(error, "pgcode", None)
    if isinstance(error, TypeError):
        return ConnectionFailed("psycopg2 does not understand its arguments")
    if isinstance(error, psycopg2.OperationalError) and code is None:
        return ConnectionFailed("PostgreSQL does not answer, or refuses the connection")
    return ConnectionFailed(f"PostgreSQL refuses with {type(error).__name__} ({code})")
