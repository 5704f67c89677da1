"""This server's cache of other servers' media, written as Synapse writes it: the `MediaTarget`."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import attr
from synapse.media._base import FileInfo, ThumbnailInfo
from synapse.media.media_storage import SpamMediaException
from synapse.server import HomeServer
from synapse.storage._base import db_to_json
from synapse.storage.database import LoggingTransaction
from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.jobstore import SynapseJobStore
from synapse_rejection_repair.adapter.journal import journal, journalled
from synapse_rejection_repair.adapter.skipped import SKIPPED_MEDIUM
from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.imports import ImportJob, ImportProgress, ImportRequest
from synapse_rejection_repair.domain.media import (
    MediaProgress,
    MediaSkip,
    Mxc,
    Redaction,
    SkippedMedium,
    SourceMedium,
    by_server,
)
from synapse_rejection_repair.domain.model import server_of
from synapse_rejection_repair.errors_imports import MediaNotCopied, NoMediaRepository
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import MediaFiles, MediaTarget


class SynapseMediaTarget(MediaTarget):
    """Stores media as if they had been fetched from their servers.

    Files go through `MediaStorage.store_into_file`, so that modules that check media see
    them and storage providers get them.

    Args:
        hs: the homeserver.
        database: its main database.
        jobs: the imports.
        clock: tells the time, and runs what blocks in threads.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        jobs: SynapseJobStore[ImportRequest, ImportProgress],
        clock: Clock,
    ) -> None:
        self._hs = hs
        self._store = hs.get_datastores().main
        self._database = database
        self._jobs = jobs
        self._clock = clock

    @override
    def require_available(self) -> None:
        if not self._hs.config.media.can_load_media_repo:
            raise NoMediaRepository()

    @override
    async def contents(self, event_ids: Collection[str]) -> dict[str, Any]:
        events = await self._store.get_events_as_list(event_ids)
        return {event.event_id: event.content for event in events}

    @override
    async def redactions(self, event_ids: Collection[str]) -> list[Redaction]:
        rows = await self._database.rows_of(
            "redactions_of",
            "SELECT r.redacts, e.sender, ej.internal_metadata FROM redactions AS r"
            " INNER JOIN events AS e ON e.event_id = r.event_id"
            " INNER JOIN event_json AS ej ON ej.event_id = r.event_id"
            " LEFT JOIN rejections AS j ON j.event_id = r.event_id WHERE j.event_id IS NULL AND",
            event_ids,
            "r.redacts",
        )
        return [
            Redaction(redacts, server_of(sender), bool(db_to_json(about).get("recheck_redaction")))
            for redacts, sender, about in rows
        ]

    @override
    async def present(self, wanted: Collection[Mxc]) -> set[Mxc]:
        own = {mxc for mxc in wanted if mxc.server == self._hs.hostname}
        others = by_server(mxc for mxc in wanted if mxc not in own)

        def find(txn: LoggingTransaction) -> set[Mxc]:
            found: set[Mxc] = set()
            for server, media_ids in others.items():
                for batch in batches(media_ids):
                    clause, args = self._database.in_list("media_id", batch)
                    txn.execute(
                        "SELECT media_id FROM remote_media_cache"
                        f" WHERE media_origin = ? AND {clause}",
                        (server, *args),
                    )
                    found.update(Mxc(server, media_id) for (media_id,) in txn.fetchall())
            return found

        return own | await self._database.run("present_media", find) if others else own

    @override
    async def copy(self, medium: SourceMedium, files: MediaFiles) -> MediaSkip | None:
        server, media_id = medium.mxc
        # Not two of them at once, should a client ask for it just now.
        queue = self._hs.get_media_repository().remote_media_linearizer.queue
        async with queue((server, media_id)):
            if await self.present([medium.mxc]):
                return None
            wrong = await self._clock.in_thread(_check, medium, files)
            if wrong is not None:
                return wrong
            file_id = _file_id(medium.mxc)
            try:
                sha256 = await self._write(FileInfo(server, file_id), medium.path, files)
                for thumbnail in medium.thumbnails:
                    if await self._clock.in_thread(files.check_thumbnail, thumbnail) is not None:
                        continue
                    info = ThumbnailInfo(
                        thumbnail.width,
                        thumbnail.height,
                        thumbnail.method,
                        thumbnail.type,
                        thumbnail.length,
                    )
                    await self._write(
                        FileInfo(server, file_id, thumbnail=info), thumbnail.path, files
                    )
                    await self._store.store_remote_media_thumbnail(
                        server,
                        media_id,
                        file_id,
                        thumbnail.width,
                        thumbnail.height,
                        thumbnail.type,
                        thumbnail.method,
                        thumbnail.length,
                    )
            except SpamMediaException:
                return MediaSkip.REFUSED
            except OSError as e:
                reason = os.strerror(e.errno) if e.errno else type(e).__name__
                raise MediaNotCopied(reason) from None
            # Last: with its row, the medium is here.
            await self._store.store_cached_remote_media(
                origin=server,
                media_id=media_id,
                media_type=medium.type,
                media_length=medium.length,
                time_now_ms=self._clock.now_ms(),
                upload_name=medium.upload_name,
                filesystem_id=file_id,
                # Not the source's, which has none of what is old.
                sha256=sha256,
            )
        return None

    async def _write(self, info: FileInfo, path: Sequence[str], files: MediaFiles) -> str:
        storage = self._hs.get_media_repository().media_storage
        async with storage.store_into_file(info) as (file, written_to):
            try:
                return await self._clock.in_thread(files.copy, path, file)
            except OSError:
                with suppress(OSError):
                    os.remove(written_to)
                raise

    @override
    async def note(
        self, job: ImportJob, progress: MediaProgress, skipped: Sequence[SkippedMedium]
    ) -> ImportJob:

        def note(txn: LoggingTransaction) -> ImportJob:
            known = journalled(txn, job.job_id, [str(s.mxc) for s in skipped], SKIPPED_MEDIUM)
            new = [s for s in skipped if str(s.mxc) not in known]
            why = [(str(s.mxc), {"reason": s.reason.value}) for s in new]
            journal(txn, job.job_id, SKIPPED_MEDIUM, self._clock.now_ms(), why)
            noted = job.with_progress(media=progress.left_out(new))
            return attr.evolve(noted, cancel_requested=self._jobs.save_in(txn, noted))

        return await self._database.run("note_media", note)


def _check(medium: SourceMedium, files: MediaFiles) -> MediaSkip | None:
    return files.check(medium, thoroughly=True)


def _file_id(mxc: Mxc) -> str:
    """Where a medium's file goes: the same place in each try, so that none is left behind."""
    digest = hashlib.sha256(str(mxc).encode()).digest()
    return base64.b32encode(digest).decode().lower()[:24]
