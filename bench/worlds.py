"""The databases and servers that benchmarks start, and the lines that they print."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.harness.database import Database
from tests.harness.postgres import Postgres


@contextmanager
def scratch(database: str) -> Iterator[tuple[Path, Database | None]]:
    """A folder, and a database of the kind that is asked for (`None` for Synapse's own SQLite)."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        if database != "postgres":
            yield folder, None
            return
        cluster = Postgres()
        stack.callback(cluster.close)
        cluster.start()
        yield folder, cluster.create_database()


def row(what: str, value: str) -> None:
    """Prints one line of a report."""
    print(f"{what:<52} {value:>24}", flush=True)


def megabytes(size: int) -> str:
    """A size in bytes for people."""
    return f"{size / 2**20:.0f} MB"
