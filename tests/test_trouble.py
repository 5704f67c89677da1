"""Which errors of a database are over one day, and which are not."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors
from synapse.storage.engines import PostgresEngine, Sqlite3Engine

from synapse_rejection_repair.adapter.database import Database


def database(engine: Any) -> Database:
    """A database of an engine, without a server."""
    main = SimpleNamespace(db_pool=SimpleNamespace(engine=engine))
    homeserver: Any = SimpleNamespace(get_datastores=lambda: SimpleNamespace(main=main))
    return Database(homeserver)


ON_POSTGRES = database(PostgresEngine({"name": "psycopg2", "args": {}}))
ON_SQLITE = database(Sqlite3Engine({"name": "sqlite3", "args": {"database": ":memory:"}}))


def told(code: str) -> psycopg2.Error:
    """An error as the driver raises it when the server gives a code."""
    error: Any = errors.lookup(code)("The server's words")
    error.__setstate__({"pgcode": code})
    assert error.pgcode == code
    assert isinstance(error, psycopg2.Error)
    return error


@pytest.mark.parametrize(
    "code",
    ["40001", "40P01", "55P03", "57014", "08006", "53100", "53300", "57P01", "57P03", "58030"],
)
def test_what_passes(code: str) -> None:
    found = ON_POSTGRES.trouble(told(code))
    assert found is not None and "server's words" not in found


@pytest.mark.parametrize("code", ["54000", "54023", "55000", "55006", "23505", "22P05", "42883"])
def test_what_stays(code: str) -> None:
    assert ON_POSTGRES.trouble(told(code)) is None


def test_without_a_code() -> None:
    for error in (psycopg2.OperationalError("gone"), psycopg2.InterfaceError("closed")):
        assert ON_POSTGRES.trouble(error) == "The database cannot be reached"
    others = (errors.ProgramLimitExceeded(), psycopg2.ProgrammingError(), ValueError("NUL"))
    assert [ON_POSTGRES.trouble(error) for error in others] == [None] * 3


def test_on_sqlite() -> None:
    assert ON_SQLITE.trouble(sqlite3.OperationalError("database is locked")) is not None
    assert ON_SQLITE.trouble(sqlite3.OperationalError("no such table: events")) is None
