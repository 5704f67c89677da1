"""Bringing the media along that a room's events refer to, so that they outlive the old server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attr

from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.imports import Held, ImportJob
from synapse_rejection_repair.domain.media import (
    MediaSkip,
    MediaSummary,
    Mentions,
    Mxc,
    SkippedMedium,
    SourceMedium,
    references,
)
from synapse_rejection_repair.domain.model import server_of
from synapse_rejection_repair.domain.source import BEGINNING, SourceEvent
from synapse_rejection_repair.errors_imports import NoMediaStore
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import Foretold, MediaFiles, MediaTarget, Source

_PAGE = 200
"""How many events are looked through at a time."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class MediaImport:
    """Looks for media, and copies them.

    All of the source's events count that this server has accepted, those too that it had
    already: their media are lost with the old server just the same. What they name is told
    from what this server shows of them: nothing where they are redacted, or are not what the
    source says.

    Attributes:
        target: where they go.
        clock: runs what blocks in threads.
    """

    target: MediaTarget
    clock: Clock

    async def look(
        self,
        mentions: Mentions,
        events: Sequence[SourceEvent],
        held: Mapping[str, Held],
        foretold: Foretold,
    ) -> None:
        """Adds what some events name, as they stand here or would stand here.

        Args:
            mentions: what the room's events name; added to.
            events: the events, as the source has them.
            held: how this server has those that it has.
            foretold: what would become of the others.
        """
        # Not of all that is here, which may be most of a large room.
        naming = {e.event_id: e for e in events if references((e.pdu or {}).get("content"))}
        full = [i for i in naming if held.get(i) is Held.FULL]
        contents = await self.target.contents(full)
        out = {*foretold.pruned, *(s.event_id for s in foretold.skipped)}
        for event_id, event in naming.items():
            how = held.get(event_id)
            if (how is None or not how.in_full) and not (event_id in out or event.erased):
                contents[event_id] = (event.pdu or {}).get("content")
        for event_id, content in contents.items():
            sender = (naming[event_id].pdu or {}).get("sender")
            mentions.add(event_id, server_of(str(sender)), content)
        for redaction in (*foretold.redactions, *await self.target.redactions(contents)):
            mentions.redact(redaction)

    async def summarise(self, source: Source, mentions: Mentions) -> MediaSummary:
        """What an import of media would bring.

        Args:
            source: the old database.
            mentions: what the room's events name.
        """
        summary, origin = MediaSummary(), await source.server_name()
        for some in batches(mentions.standing()):
            summary = await self._add(summary, source, origin, set(some))
        return summary

    async def _add(
        self, summary: MediaSummary, source: Source, origin: str | None, wanted: set[Mxc]
    ) -> MediaSummary:
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
        while page := await source.ids(job.room_id, after, _PAGE, rejected=True):
            after = page[-1][0]
            contents = await self.target.contents([event_id for _, event_id in page])
            wanted = set[Mxc]().union(*map(references, contents.values()))
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
            job = await self.target.note(job, attr.evolve(progress, cursor=after), skipped)
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
