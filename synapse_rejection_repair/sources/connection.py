"""What a connection to an old database has to offer, whatever its engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import attr


@attr.s(auto_exc=True, auto_attribs=True)
class ConnectionFailed(Exception):
    """The database cannot be opened or read. Says nothing of where it is."""

    reason: str

    def __str__(self) -> str:
        return self.reason


class Connection(Protocol):
    """A connection that can do nothing but read."""

    def query(self, sql: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, with `?` for its arguments.

        Raises:
            ConnectionFailed: the database cannot be read.
        """

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; empty if there is no such table."""

    def close(self) -> None:
        """Ends the connection."""


def marks(items: Collection[object]) -> str:
    """As many question marks as there are items, as SQL lists them."""
    return ", ".join("?" for _ in items)
