"""What the import asks of the outer layers: Protocols that `adapter` and `sources` implement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, BinaryIO, Protocol

import attr

from synapse_rejection_repair.domain.imports import Held, ImportJob, ImportRequest, Skipped
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.media import (
    MediaProgress,
    MediaSkip,
    Mxc,
    Redaction,
    SkippedMedium,
    SourceMedium,
    SourceThumbnail,
)
from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.source import Position, SourceEvent


class StoreBatch(Protocol):
    """Stores some events whose ids, hashes and signatures are verified."""

    async def __call__(self, job: ImportJob, meanwhile: Callable[[], None]) -> ImportJob:
        """Runs the authorization rules and stores the events, noting how far the import is.

        Args:
            job: the import.
            meanwhile: called when all that is left is to wait for the database.

        Returns:
            The job as it was saved in the last of the transactions.
        """


class MediaFiles(Protocol):
    """An old homeserver's media store. Blocks while it reads: to be asked in threads."""

    def check(self, medium: SourceMedium, *, thoroughly: bool) -> MediaSkip | None:
        """Why a medium's file cannot be had, `None` if it can.

        Args:
            medium: what the source's database says of it.
            thoroughly: read all of it for its hash, where the source has one.
        """

    def check_thumbnail(self, thumbnail: SourceThumbnail) -> MediaSkip | None:
        """Why a thumbnail's file cannot be had, `None` if it can."""

    def copy(self, path: Sequence[str], into: BinaryIO) -> str:
        """Writes a file's content into another; gives its SHA-256 in hexadecimal.

        Raises:
            OSError: it cannot be read or written.
        """


class Source(Protocol):
    """An old homeserver's database, opened to be read. Never writes, never blocks the reactor."""

    async def rooms(self) -> dict[str, int]:
        """How many events the old server has accepted, by room."""

    async def room_version(self, room_id: str) -> str | None:
        """The room's version, `None` if unknown."""

    async def ids(
        self, room_id: str, after: Position, limit: int, *, rejected: bool
    ) -> list[tuple[Position, str]]:
        """The next of the room's events that are no outliers, in the source's order.

        Args:
            room_id: the room.
            after: the position that they are behind.
            limit: how many at most.
            rejected: also those that it rejected.
        """

    async def history(self, room_id: str, after: Position, limit: int) -> list[SourceEvent]:
        """The next of the room's events that are no outliers, in the source's order."""

    async def events(self, room_id: str, event_ids: Collection[str]) -> dict[str, SourceEvent]:
        """Some of the room's events, outliers too; unknown ids are left out."""

    async def positions(self, room_id: str, event_ids: Collection[str]) -> dict[str, Position]:
        """Where those of the events are in its order that it has as no outliers."""

    async def state(self, group: int) -> StateIds:
        """The state of one of its state groups."""

    async def state_before(self, event: SourceEvent) -> StateIds:
        """The state before one of its events; empty if it does not know it."""

    async def groups_before(self, events: Sequence[SourceEvent]) -> dict[str, int]:
        """The state groups before those of its events of which it knows one."""

    async def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        """Some entries of the state of one of its state groups."""

    async def tracked(
        self, groups: Collection[int], server_name: str
    ) -> dict[int, tuple[str | None, StateIds]]:
        """What of some states decides who of a server's users may see an event.

        Gives for each state group the event that sets the history visibility, and the
        membership events of the server's users.
        """

    async def verify_keys(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The keys that it has cached, by server and key id, in unpadded base64."""

    async def server_name(self) -> str | None:
        """The old server's name, `None` if unknown."""

    async def media(self, wanted: Collection[Mxc]) -> dict[Mxc, SourceMedium]:
        """Those of some media that the old server has."""

    def media_files(self) -> MediaFiles | None:
        """Its media store, `None` where the configuration does not name it."""

    async def close(self) -> None:
        """Ends the connection."""


class Sources(Protocol):
    """The old databases that the configuration names."""

    def names(self) -> list[str]:
        """Their names."""

    async def open(self, name: str) -> Source:
        """Opens one of them.

        Raises:
            UnknownSource: the configuration names none such.
            SourceUnavailable: it cannot be opened.
            SourceRefused: it is none of Synapse's, or too old.
        """


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Foretold:
    """What would become of some events of the source.

    Attributes:
        skipped: those that would not be accepted, and why.
        pruned: those that would arrive redacted, since their content is not what was hashed.
        redactions: those that would redact others.
    """

    skipped: list[Skipped]
    pruned: list[str]
    redactions: list[Redaction]


class Forecast(Protocol):
    """Foretells which events of one room would arrive. Writes nothing."""

    async def inspect(self, events: Sequence[SourceEvent], held: Mapping[str, Held]) -> Foretold:
        """What would become of some events.

        Args:
            events: the next of the source's events, in its order.
            held: how this server has those that it has; of what it has in full, the states
                alone are looked at.
        """


class ImportTarget(Protocol):
    """This server, as the place that history is imported into."""

    async def require_room(self, room_id: str) -> str:
        """The room's version.

        Raises:
            RepairError: as `RoomReader.require_repairable`.
        """

    async def joined_rooms(self, room_ids: Collection[str]) -> set[str]:
        """Those of the rooms that a user of this server is in."""

    async def held(self, event_ids: Collection[str]) -> dict[str, Held]:
        """How this server has those of the events that it has."""

    def forecast(
        self, room_id: str, room_version: str, source: Source, request: ImportRequest
    ) -> Forecast:
        """What foretells which events of a room would arrive.

        Args:
            room_id: the room.
            room_version: its version's identifier.
            source: the old database.
            request: what is asked for.
        """


class SkippedList(Protocol):
    """What imports have left out, or stored as rejected."""

    async def page(self, job_id: str, page: Page) -> Listing[Skipped]:
        """The events that an import has skipped."""

    async def media(self, job_id: str, page: Page) -> Listing[SkippedMedium]:
        """The media that an import has skipped."""


class MediaTarget(Protocol):
    """This server's cache of other servers' media."""

    def require_available(self) -> None:
        """Raises `NoMediaRepository` if this process keeps no media."""

    async def contents(self, event_ids: Collection[str]) -> dict[str, Any]:
        """The contents of those of some events that this server has accepted, as it shows them."""

    async def redactions(self, event_ids: Collection[str]) -> list[Redaction]:
        """The redactions that this server has of some events, be these here or not."""

    async def present(self, wanted: Collection[Mxc]) -> set[Mxc]:
        """Those of some media that this server has already, or is the origin of."""

    async def copy(self, medium: SourceMedium, files: MediaFiles) -> MediaSkip | None:
        """Takes a medium with its thumbnails in; says why not, if it is not to be had.

        Raises:
            MediaNotCopied: a file cannot be read or written any more.
        """

    async def note(
        self, job: ImportJob, progress: MediaProgress, skipped: Sequence[SkippedMedium]
    ) -> ImportJob:
        """Notes how far the media of an import are, each skipped one once; gives the job."""


class ImportWriter(Protocol):
    """Stores events of one room as history, on the process that writes them.

    Attributes:
        at_once: how many events are best stored at a time while nobody else uses the server.
    """

    at_once: int

    def at_work(self) -> AbstractAsyncContextManager[None]:
        """While it lasts, much is stored."""

    async def prepare(self, job: ImportJob, count: int) -> ImportJob:
        """Sets the stream orderings aside that so many events need; gives the saved job.

        Those that the job has already are kept, if they are still good.
        """

    async def finish(self, job: ImportJob) -> None:
        """Lets nobody ask other servers for events that were decided, and are outliers still."""

    async def verify(
        self, events: Sequence[SourceEvent], skipped: Sequence[Skipped], cursor: Position
    ) -> StoreBatch:
        """Verifies some events, which may be done while those before them are stored.

        Args:
            events: the events, parents first.
            skipped: the events that have been skipped since the last call.
            cursor: the position before which everything is decided once they are stored.

        Returns:
            What stores them.
        """
