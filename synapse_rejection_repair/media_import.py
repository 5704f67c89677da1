"""Bringing the media along that a room's events refer to, so that they outlive the old server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import attr

from synapse_rejection_repair.domain.imports import ImportJob
from synapse_rejection_repair.domain.media import (
    MediaSkip,
    MediaSummary,
    Mxc,
    SkippedMedium,
    SourceMedium,
    references,
)
from synapse_rejection_repair.domain.source import BEGINNING, Position, SourceEvent
from synapse_rejection_repair.errors_imports import NoMediaStore
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import MediaFiles, MediaTarget, Source

_PAGE = 200
"""How many events are looked through at a time."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class MediaImport:
    """Looks for media, and copies them.

    All accepted events of the room count, those too that this server had already: their
    media are lost with the old server just the same.

    Attributes:
        target: where they go.
        clock: runs what blocks in threads.
    """

    target: MediaTarget
    clock: Clock

    async def summarise(
        self, source: Source, events: Iterable[SourceEvent], seen: set[Mxc], summary: MediaSummary
    ) -> MediaSummary:
        """Adds what some events refer to to what an import of media would bring.

        Args:
            source: the old database.
            events: the events.
            seen: what earlier events refer to; added to.
            summary: what was found of that.
        """
        wanted = _named(events) - seen
        seen |= wanted
        present = await self.target.present(wanted)
        found = await source.media(wanted - present)
        files = source.media_files()
        arriving, unavailable = [], 0
        for medium in found.values():
            wrong = None if files is None else await self._check(files, medium)
            if wrong is None:
                arriving.append(medium)
            else:
                unavailable += 1
        origin = await source.server_name()
        unavailable += sum(m.server == origin for m in wanted - present - found.keys())
        return MediaSummary(
            referenced=summary.referenced + len(wanted),
            present=summary.present + len(present),
            to_import=summary.to_import + len(arriving),
            bytes=summary.bytes + sum(m.length for m in arriving),
            unavailable=summary.unavailable + unavailable,
        )

    async def _check(self, files: MediaFiles, medium: SourceMedium) -> MediaSkip | None:
        def check() -> MediaSkip | None:
            return files.check(medium, thoroughly=False)

        return await self.clock.in_thread(check)

    def require_store(self, name: str, source: Source) -> MediaFiles:
        """The source's media store.

        Args:
            name: what the configuration calls the source.
            source: the old database.

        Raises:
            NoMediaStore: the configuration does not name it.
        """
        files = source.media_files()
        if files is None:
            raise NoMediaStore(name)
        return files

    def require_possible(self, name: str, source: Source) -> MediaFiles:
        """The source's media store, where this process can copy media out of it.

        Raises:
            NoMediaStore: the configuration does not name it.
            NoMediaRepository: this process keeps no media.
        """
        self.target.require_available()
        return self.require_store(name, source)

    async def bring(self, job: ImportJob, source: Source) -> ImportJob:
        """Copies all that is not here yet; goes on where the job was.

        Raises:
            NoMediaStore: the configuration does not name the source's media store.
            NoMediaRepository: this process keeps no media.
            MediaNotCopied: a file cannot be read or written any more.
        """
        files = self.require_possible(job.request.source, source)
        origin = await source.server_name()
        job = await self._count_last(job, source)
        after = job.progress.media.cursor or BEGINNING
        async for events, cursor in _pages(source, job.room_id, after):
            wanted = _named(events)
            wanted -= await self.target.present(wanted)
            found = await source.media(wanted)
            progress = job.progress.media
            skipped = [
                SkippedMedium(mxc, MediaSkip.NOT_IN_SOURCE)
                for mxc in sorted(wanted - found.keys())
                if mxc.server == origin
            ]
            for mxc in sorted(found):
                job = await self.target.note(job, attr.evolve(progress, coming=mxc), ())
                if job.cancel_requested:
                    return job
                wrong = await self.target.copy(found[mxc], files)
                if wrong is None:
                    progress = progress.took(found[mxc])
                    job = await self.target.note(job, progress, ())
                else:
                    skipped.append(SkippedMedium(mxc, wrong))
                await self.clock.pause()
            job = await self.target.note(job, attr.evolve(progress, cursor=cursor), skipped)
            if job.cancel_requested:
                return job
        return job

    async def _count_last(self, job: ImportJob, source: Source) -> ImportJob:
        """Counts the medium that was being copied when the server was killed, if it is here."""
        progress, last = job.progress.media, job.progress.media.coming
        if last is None or not await self.target.present([last]):
            return job
        found = await source.media([last])
        return await self.target.note(job, progress.took(found[last]), ()) if found else job


def _named(events: Iterable[SourceEvent]) -> set[Mxc]:
    found: set[Mxc] = set()
    for event in events:
        if not event.rejected and event.pdu is not None:
            found |= references(event.pdu.get("content"))
    return found


async def _pages(
    source: Source, room_id: str, after: Position
) -> AsyncIterator[tuple[list[SourceEvent], Position]]:
    while events := await source.history(room_id, after, _PAGE):
        after = events[-1].position
        yield events, after
