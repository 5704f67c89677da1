"""A server's database, seen directly, by the side of the server."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection as PostgresConnection

Row = tuple[Any, ...]


class Database(ABC):
    """What SQLite and PostgreSQL have in common; SQL is written with `?` for parameters."""

    @abstractmethod
    def synapse_config(self) -> dict[str, Any]:
        """Returns the `database` section of homeserver.yaml."""

    @abstractmethod
    def query(self, sql: str, *parameters: Any) -> list[Row]:
        """Reads.

        Args:
            sql: One statement that writes nothing.
            parameters: For its `?`s.

        Returns:
            The rows.
        """

    @abstractmethod
    def execute(self, sql: str, *parameters: Any) -> int:
        """Writes, in a transaction of its own. A running server's caches know nothing of it.

        Args:
            sql: One statement.
            parameters: For its `?`s.

        Returns:
            The number of rows that it touched.
        """

    @abstractmethod
    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Writes one statement for each of many rows of parameters, and commits."""

    def value(self, sql: str, *parameters: Any) -> Any:
        """Reads the one value that a query of one column has; None if it finds no row."""
        rows = self.query(sql, *parameters)
        assert len(rows) <= 1, f"{len(rows)} rows instead of one"
        return rows[0][0] if rows else None


class SqliteDatabase(Database):
    """A SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def synapse_config(self) -> dict[str, Any]:
        return {"name": "sqlite3", "args": {"database": str(self.path)}}

    @contextmanager
    def connect(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection for a moment, read-only unless told; commits unless the body raises."""
        mode = "rw" if write else "ro"
        connection = sqlite3.connect(f"file:{self.path}?mode={mode}", uri=True, timeout=30)
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def query(self, sql: str, *parameters: Any) -> list[Row]:
        with self.connect() as connection:
            return connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str, *parameters: Any) -> int:
        with self.connect(write=True) as connection:
            return connection.execute(sql, parameters).rowcount

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with self.connect(write=True) as connection:
            connection.executemany(sql, rows)


class PostgresDatabase(Database):
    """A database of a PostgreSQL cluster."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        """Args:
        arguments: For `psycopg2.connect`.
        """
        self.arguments = arguments

    def synapse_config(self) -> dict[str, Any]:
        return {"name": "psycopg2", "args": {**self.arguments, "cp_min": 2, "cp_max": 5}}

    @contextmanager
    def connect(self, *, write: bool = False) -> Iterator[PostgresConnection]:
        """A connection for a moment, read-only unless told; commits unless the body raises."""
        connection = psycopg2.connect(**self.arguments)
        try:
            connection.set_session(readonly=not write)
            with connection:
                yield connection
        finally:
            connection.close()

    def query(self, sql: str, *parameters: Any) -> list[Row]:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(_to_psycopg2(sql), parameters)
            return cursor.fetchall()

    def execute(self, sql: str, *parameters: Any) -> int:
        with self.connect(write=True) as connection, connection.cursor() as cursor:
            cursor.execute(_to_psycopg2(sql), parameters)
            return cursor.rowcount

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with self.connect(write=True) as connection, connection.cursor() as cursor:
            cursor.executemany(_to_psycopg2(sql), rows)


def _to_psycopg2(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")
