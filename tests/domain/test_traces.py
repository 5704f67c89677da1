"""What the log says of an unforeseen error: all but what its message could give away."""

from __future__ import annotations

import ast
import sqlite3
import sys
from pathlib import Path

import pytest

import synapse_rejection_repair
from synapse_rejection_repair.domain.traces import trace

SECRET = "what somebody wrote"
PACKAGE = Path(synapse_rejection_repair.__file__).parent


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as e:
        return e


def by_a_cause() -> Exception:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as e:
            raise ValueError(SECRET) from e
    except ValueError as e:
        return e


def test_all_of_a_chain_is_told_but_no_message() -> None:
    told = trace(by_a_cause())
    assert SECRET not in told.replace("raise KeyError(SECRET)", "")
    assert (
        told.index("builtins.KeyError")
        < told.index("which led to")
        < told.index("builtins.ValueError")
    )
    assert told.count("in by_a_cause") == 2


def test_what_was_hidden_stays_hidden() -> None:
    def hides() -> None:
        try:
            raise KeyError(SECRET)
        except KeyError:
            raise ValueError(SECRET) from None

    with pytest.raises(ValueError) as caught:
        hides()
    assert "KeyError\n" not in trace(caught.value) and "which led to" not in trace(caught.value)


def test_errors_in_a_circle_come_to_an_end() -> None:
    one, other = raised(KeyError()), raised(ValueError())
    one.__context__, other.__context__ = other, one
    assert trace(one).count("Traceback") == 2


def test_what_a_database_says_of_itself_is_told() -> None:
    with pytest.raises(sqlite3.IntegrityError) as caught:
        sqlite3.connect(":memory:").execute("CREATE TABLE t (a CHECK (a < 1))").execute(
            "INSERT INTO t VALUES (2)"
        )
    # Python 3.10 has no names of them.
    named = sys.version_info >= (3, 11)
    error = " (error SQLITE_CONSTRAINT_CHECK)" if named else ""
    assert trace(caught.value).endswith("\nsqlite3.IntegrityError" + error)


def test_what_psycopg2_says_of_a_table_is_told() -> None:
    class Diagnosis:
        table_name = "event_search"
        column_name = None
        constraint_name = "refused"

    class FromPostgres(Exception):
        pgcode = "23514"
        diag = Diagnosis()

    told = trace(raised(FromPostgres(f"DETAIL: Failing row contains ({SECRET})")))
    assert told.endswith("FromPostgres (SQLSTATE 23514, table event_search, constraint refused)")
    assert SECRET not in told


def test_no_log_is_given_a_whole_error() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            assert node.func.attr != "exception", f"{path}:{node.lineno}"
            assert all(k.arg != "exc_info" for k in node.keywords), f"{path}:{node.lineno}"
