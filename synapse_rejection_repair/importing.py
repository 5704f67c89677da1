"""Requests for imports of a room's old history: look, plan, or make a job of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attr

from synapse_rejection_repair.comparison import missing, require_room, summarise
from synapse_rejection_repair.domain.imports import (
    ImportJob,
    ImportProgress,
    ImportRequest,
    Summary,
)
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.source import SourceRoom
from synapse_rejection_repair.errors import RepairError
from synapse_rejection_repair.media_import import MediaImport
from synapse_rejection_repair.ports_imports import ImportTarget, Source, Sources
from synapse_rejection_repair.ports_jobs import JobStore

Imports = JobStore[ImportRequest, ImportProgress]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RoomImport:
    """What came of asking for the import of one of many rooms.

    Attributes:
        room_id: the room.
        summary: what it would bring, in a dry run.
        job: the job that does it.
        error: why there is neither.
    """

    room_id: str
    summary: Summary | None = None
    job: ImportJob | None = None
    error: RepairError | None = None


@attr.s(frozen=True, slots=True, auto_attribs=True)
class ImportService:
    """Answers requests for imports, on any process.

    Attributes:
        sources: the old databases.
        target: this server.
        media: looks for media.
        store: the imports.
        started: told of a new job, so that it begins at once where it can.
        server_name: this server's name.
    """

    sources: Sources
    target: ImportTarget
    media: MediaImport
    store: Imports
    started: Callable[[ImportJob], None]
    server_name: str

    async def rooms(self, name: str, page: Page) -> Listing[SourceRoom]:
        """The rooms of a source against ours.

        Raises:
            UnknownSource: the configuration names none such.
            SourceUnavailable: it cannot be read.
            SourceRefused: it is none of Synapse's, or too old.
        """
        source = await self.sources.open(name)
        try:
            counts = await source.rooms()
            joined = await self.target.joined_rooms(list(counts))
            lacking: dict[str, int] = {}
            if page.order_by == "missing":
                lacking = {r: await missing(source, self.target, r) for r in counts}
            key: Callable[[str], tuple[object, str]] = {
                "events": lambda r: (counts[r], r),
                "missing": lambda r: (lacking[r], r),
                "joined": lambda r: (r in joined, r),
            }.get(page.order_by, lambda r: (0, r))
            ordered = sorted(counts, key=key, reverse=page.backwards)
            shown = ordered[page.start : page.start + page.limit]
            # To count them takes a look at each event: only those that are asked for.
            for r in shown:
                if r not in lacking:
                    lacking[r] = await missing(source, self.target, r)
            rows = [SourceRoom(r, counts[r], lacking[r], r in joined) for r in shown]
            return Listing(rows, len(counts))
        finally:
            await source.close()

    async def dry_run(self, room_id: str, request: ImportRequest) -> Summary:
        """What an import would bring. Writes nothing.

        Raises:
            UnknownRoom: this server has never heard of the room.
            NotInRoom: no local user is joined.
            PartialState: the room's state is still being fetched.
            UnsupportedRoomVersion: the room's version is not known.
            UnknownSourceRoom: the source has no events of the room.
            NoMediaStore: media are asked for, and the source's media store is not configured.
            RepairError: as for `rooms`.
        """
        source = await self.sources.open(request.source)
        try:
            version = await require_room(source, self.target, request.source, room_id)
            self._require_media(source, request)
            return await summarise(
                source,
                self.target,
                self.media,
                room_id,
                version,
                self.server_name,
                request,
            )
        finally:
            await source.close()

    async def start(self, room_id: str, request: ImportRequest) -> ImportJob:
        """Begins an import in the background.

        Raises:
            JobRunning: the room has a job that is not over.
            RepairError: as for `dry_run`.
        """
        source = await self.sources.open(request.source)
        try:
            await require_room(source, self.target, request.source, room_id)
            self._require_media(source, request)
        finally:
            await source.close()
        job = await self.store.create(room_id, request)
        self.started(job)
        return job

    async def many(
        self, room_ids: Sequence[str] | None, request: ImportRequest, *, dry_run: bool
    ) -> list[RoomImport]:
        """Makes dry runs of, or begins, the imports of many rooms.

        Args:
            room_ids: the rooms; `None` for all of the source's that a user of this server is
                in and that lack something, or may lack media if these are asked for.
            request: what is asked for each of them.
            dry_run: whether nothing is to be written.

        Raises:
            NoMediaStore: media are asked for, and the source's media store is not configured.
            RepairError: the source cannot be read. What is wrong with one room is part of
                the answer instead.
        """
        source = await self.sources.open(request.source)
        try:
            self._require_media(source, request)
            if room_ids is None:
                room_ids = await self._worthwhile(source, request)
        finally:
            await source.close()
        answers = []
        for room_id in room_ids:
            try:
                if dry_run:
                    found = RoomImport(room_id, summary=await self.dry_run(room_id, request))
                else:
                    found = RoomImport(room_id, job=await self.start(room_id, request))
            except RepairError as e:
                found = RoomImport(room_id, error=e)
            answers.append(found)
        return answers

    def _require_media(self, source: Source, request: ImportRequest) -> None:
        if request.media:
            self.media.require_store(request.source, source)

    async def _worthwhile(self, source: Source, request: ImportRequest) -> list[str]:
        joined = sorted(await self.target.joined_rooms(list(await source.rooms())))
        if request.media:
            return joined
        return [r for r in joined if await missing(source, self.target, r, rejected=True)]
