"""A Synapse module for tests alone: tells the settings of the server's SQLite connection."""

from __future__ import annotations

from typing import Any

from synapse.http.server import DirectServeJsonResource
from synapse.http.site import SynapseRequest
from synapse.module_api import ModuleApi
from synapse.storage.database import LoggingTransaction

PATH = "/_synapse/sqlite_settings"
SETTINGS = ("cache_size", "wal_autocheckpoint")


class SqliteSettings:
    """Answers with each of the settings."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        def read(txn: LoggingTransaction) -> dict[str, int]:
            found: dict[str, int] = {}
            for name in SETTINGS:
                txn.execute(f"PRAGMA {name}")
                ((found[name],),) = txn.fetchall()
            return found

        class Resource(DirectServeJsonResource):
            isLeaf = True

            async def _async_render_GET(self, request: SynapseRequest) -> tuple[int, Any]:
                return 200, await api.run_db_interaction("sqlite_settings", read)

        api.register_web_resource(PATH, Resource(clock=api._hs.get_clock()))
