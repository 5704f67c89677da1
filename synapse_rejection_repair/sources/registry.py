"""The old databases that the configuration names, read in threads: the `Sources`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Lock
from typing import TypeVar

from typing_extensions import override

from synapse_rejection_repair.config import SourceConfig
from synapse_rejection_repair.domain.media import Mxc, SourceMedium
from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.source import Position, SourceEvent
from synapse_rejection_repair.errors_imports import SourceRefused, SourceUnavailable, UnknownSource
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import Source, Sources
from synapse_rejection_repair.sources.connection import Connection, ConnectionFailed
from synapse_rejection_repair.sources.database import SourceDatabase
from synapse_rejection_repair.sources.media_files import MediaFolder
from synapse_rejection_repair.sources.schema import SchemaRefused

T = TypeVar("T")
logger = logging.getLogger(__name__)


class ConfiguredSources(Sources):
    """Opens old databases.

    Args:
        configs: the databases, by name.
        clock: runs what blocks in threads.
    """

    def __init__(self, configs: Mapping[str, SourceConfig], clock: Clock) -> None:
        self._configs = configs
        self._clock = clock

    @override
    def names(self) -> list[str]:
        return sorted(self._configs)

    @override
    async def open(self, name: str) -> ThreadedSource:
        config = self._configs.get(name)
        if config is None:
            raise UnknownSource(name)
        database = await _guarded(name, self._clock, _open, config)
        files = None if config.media_store_path is None else MediaFolder(config.media_store_path)
        return ThreadedSource(name, database, files, self._clock)


class ThreadedSource(Source):
    """An old database that is read in threads.

    Args:
        name: what the configuration calls it.
        database: reads it, and blocks while it does.
        files: its media store, where the configuration names it.
        clock: runs what blocks in threads.
    """

    def __init__(
        self, name: str, database: SourceDatabase, files: MediaFolder | None, clock: Clock
    ) -> None:
        self._name = name
        self._database = database
        self._files = files
        self._clock = clock
        self._one_at_a_time = Lock()

    async def _run(self, func: Callable[..., T], *args: object) -> T:
        def run() -> T:
            with self._one_at_a_time:
                return func(*args)

        return await _guarded(self._name, self._clock, run)

    @override
    async def rooms(self) -> dict[str, int]:
        return await self._run(self._database.rooms)

    @override
    async def room_version(self, room_id: str) -> str | None:
        return await self._run(self._database.room_version, room_id)

    @override
    async def ids(
        self, room_id: str, after: Position, limit: int, *, rejected: bool
    ) -> list[tuple[Position, str]]:
        def ids() -> list[tuple[Position, str]]:
            return self._database.ids(room_id, after, limit, rejected=rejected)

        return await self._run(ids)

    @override
    async def history(self, room_id: str, after: Position, limit: int) -> list[SourceEvent]:
        return await self._run(self._database.history, room_id, after, limit)

    @override
    async def events(self, room_id: str, event_ids: Collection[str]) -> dict[str, SourceEvent]:
        return await self._run(self._database.events, room_id, event_ids)

    @override
    async def positions(self, room_id: str, event_ids: Collection[str]) -> dict[str, Position]:
        return await self._run(self._database.positions, room_id, event_ids)

    @override
    async def state(self, group: int) -> StateIds:
        return await self._run(self._database.states.state, group)

    @override
    async def state_before(self, event: SourceEvent) -> StateIds:
        return await self._run(self._database.states.state_before, event)

    @override
    async def groups_before(self, events: Sequence[SourceEvent]) -> dict[str, int]:
        return await self._run(self._database.states.groups_before, events)

    @override
    async def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        return await self._run(self._database.states.entries, group, keys)

    @override
    async def tracked(
        self, groups: Collection[int], server_name: str
    ) -> dict[int, tuple[str | None, StateIds]]:
        return await self._run(self._database.states.tracked, groups, server_name)

    @override
    async def verify_keys(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        return await self._run(self._database.verify_keys, wanted)

    @override
    async def server_name(self) -> str | None:
        return await self._run(self._database.media.server_name)

    @override
    async def media(self, wanted: Collection[Mxc]) -> dict[Mxc, SourceMedium]:
        return await self._run(self._database.media.find, wanted)

    @override
    def media_files(self) -> MediaFolder | None:
        return self._files

    @override
    async def close(self) -> None:
        await self._run(self._database.close)


def _open(config: SourceConfig) -> SourceDatabase:
    connection = _connect(config)
    try:
        return SourceDatabase(connection)
    except BaseException:
        connection.close()
        raise


def _connect(config: SourceConfig) -> Connection:
    if config.engine == "sqlite3":
        from synapse_rejection_repair.sources.sqlite import SqliteConnection

        return SqliteConnection(config.args["database"], immutable=config.immutable)
    try:
        # Only where it is used: a server on SQLite need not have psycopg2.
        from synapse_rejection_repair.sources.postgres import PostgresConnection
    except ImportError:
        raise ConnectionFailed("psycopg2 is not installed") from None
    return PostgresConnection(config.args)


async def _guarded(name: str, clock: Clock, func: Callable[..., T], *args: object) -> T:
    try:
        return await clock.in_thread(func, *args)
    except ConnectionFailed as e:
        logger.warning("Source %s: %s", name, e)
        raise SourceUnavailable(name, str(e)) from None
    except SchemaRefused as e:
        raise SourceRefused(name, str(e)) from None
