"""What the log says of errors that nobody foresaw."""

from __future__ import annotations

import traceback


def trace(error: BaseException) -> str:
    """Where an error was raised, and what those were that it came from, without their messages.

    A database's message can hold the row that it is about, so the text of somebody's message, or
    where the database is.

    Args:
        error: the error.

    Returns:
        Lines as Python's own, the oldest error first.
    """
    parts = []
    seen: set[int] = set()
    next_one: BaseException | None = error
    while next_one is not None and id(next_one) not in seen:
        seen.add(id(next_one))
        frames = "".join(traceback.format_tb(next_one.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{_named(next_one)}")
        hidden = next_one.__suppress_context__
        next_one = next_one.__cause__ or (None if hidden else next_one.__context__)
    return "\nwhich led to:\n".join(reversed(parts))


def _named(error: BaseException) -> str:
    """Its type and what a database driver says of it that is no free text.

    `pgcode` and `diag` are psycopg2's, `sqlite_errorname` that of Python's `sqlite3`, from 3.11.
    """
    diag = getattr(error, "diag", None)
    details = {
        "SQLSTATE": getattr(error, "pgcode", None),
        "table": getattr(diag, "table_name", None),
        "column": getattr(diag, "column_name", None),
        "constraint": getattr(diag, "constraint_name", None),
        "error": getattr(error, "sqlite_errorname", None),
    }
    said = ", ".join(f"{name} {value}" for name, value in details.items() if value)
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{name} ({said})" if said else name
