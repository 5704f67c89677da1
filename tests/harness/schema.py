"""Synapse's whole schema in a new SQLite database, without a server."""

from __future__ import annotations

import sqlite3
from inspect import signature
from pathlib import Path
from typing import Any

from synapse.storage.database import LoggingDatabaseConnection
from synapse.storage.engines import create_engine
from synapse.storage.prepare_database import prepare_database


def create_schema(path: Path) -> None:
    """Creates a database as a server has it that was never used."""
    engine = create_engine({"name": "sqlite3", "args": {"database": str(path)}})
    connection = sqlite3.connect(path)
    arguments: dict[str, Any] = {"conn": connection, "engine": engine, "default_txn_name": "new"}
    # Not every Synapse asks for it.
    if "server_name" in signature(LoggingDatabaseConnection).parameters:
        arguments["server_name"] = "example.org"
    prepare_database(LoggingDatabaseConnection(**arguments), engine, None)
    connection.close()
