"""The old databases that the configuration names, read in threads: the `Sources`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Lock
from typing import TypeVar

from synapse_rejection_repair.config import SourceConfig
from synapse_rejection_repair.domain.media import Mxc, SourceMedium
from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.source import Position, SourceEvent
from synapse_rejection_repair.errors import SourceRefused, SourceUnavailable, UnknownSource
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.sources.connection import Connection, ConnectionFailed
from synapse_rejection_repair.sources.database import SourceDatabase
from synapse_rejection_repair.sources.media_files import MediaFiles
from synapse_rejection_repair.sources.schema import SchemaRefused

T = TypeVar("T")
logger = logging.getLogger(__name__)


class ConfiguredSources:
    """Opens old databases.

    Args:
        configs: the databases, by name.
        clock: runs what blocks in threads.
    """

    def __init__(self, configs: Mapping[str, SourceConfig], clock: Clock) -> None:
        self._configs = configs
        self._clock = clock

    def names(self) -> list[str]:
        """Their names."""
        return sorted(self._configs)

    async def open(self, name: str) -> ThreadedSource:
        """Opens one of them.

        Raises:
            UnknownSource: the configuration names none such.
            SourceUnavailable: it cannot be opened.
            SourceRefused: it is none of Synapse's, or too old.
        """
        config = self._configs.get(name)
        if config is None:
            raise UnknownSource(name)
        database = await _guarded(name, self._clock, _open, config)
        files = None if config.media_store_path is None else MediaFiles(config.media_store_path)
        return ThreadedSource(name, database, files, self._clock)


class ThreadedSource:
    """An old database that is read in threads.

    Args:
        name: what the configuration calls it.
        database: reads it, and blocks while it does.
        files: its media store, where the configuration names it.
        clock: runs what blocks in threads.
    """

    def __init__(
        self, name: str, database: SourceDatabase, files: MediaFiles | None, clock: Clock
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

    async def rooms(self) -> dict[str, int]:
        """How many events the old server has accepted, by room."""
        return await self._run(self._database.rooms)

    async def room_version(self, room_id: str) -> str | None:
        """The room's version, `None` if unknown."""
        return await self._run(self._database.room_version, room_id)

    async def count(self, room_id: str) -> int:
        """How many events of the room there are that are no outliers."""
        return await self._run(self._database.count, room_id)

    async def accepted_ids(
        self, room_id: str, after: Position, limit: int
    ) -> list[tuple[Position, str]]:
        """The next of the room's accepted events, in the source's order."""
        return await self._run(self._database.accepted_ids, room_id, after, limit)

    async def history(self, room_id: str, after: Position, limit: int) -> list[SourceEvent]:
        """The next of the room's events that are no outliers, in the source's order."""
        return await self._run(self._database.history, room_id, after, limit)

    async def events(self, room_id: str, event_ids: Collection[str]) -> dict[str, SourceEvent]:
        """Some of the room's events, outliers too; unknown ids are left out."""
        return await self._run(self._database.events, room_id, event_ids)

    async def positions(self, room_id: str, event_ids: Collection[str]) -> dict[str, Position]:
        """Where those of the events are in its order that it has as no outliers."""
        return await self._run(self._database.positions, room_id, event_ids)

    async def state_before(self, event: SourceEvent) -> StateIds:
        """The state before one of its events; empty if it does not know it."""
        return await self._run(self._database.states.state_before, event)

    async def groups_before(self, events: Sequence[SourceEvent]) -> dict[str, int]:
        """The state groups before those of its events of which it knows one."""
        return await self._run(self._database.states.groups_before, events)

    async def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        """Some entries of the state of one of its state groups."""
        return await self._run(self._database.states.entries, group, keys)

    async def tracked(
        self, groups: Collection[int], server_name: str
    ) -> dict[int, tuple[str | None, StateIds]]:
        """What of some states decides who of a server's users may see an event."""
        return await self._run(self._database.states.tracked, groups, server_name)

    async def verify_keys(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The keys that it has cached, by server and key id, in unpadded base64."""
        return await self._run(self._database.verify_keys, wanted)

    async def server_name(self) -> str | None:
        """The old server's name, `None` if unknown."""
        return await self._run(self._database.media.server_name)

    async def media(self, wanted: Collection[Mxc]) -> dict[Mxc, SourceMedium]:
        """Those of some media that the old server has."""
        return await self._run(self._database.media.find, wanted)

    def media_files(self) -> MediaFiles | None:
        """Its media store, `None` where the configuration does not name it."""
        return self._files

    async def close(self) -> None:
        """Ends the connection."""
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
