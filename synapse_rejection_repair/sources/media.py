"""What an old Synapse database says of media: its users' own, and those of others it had cached."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.media import (
    Mxc,
    SourceMedium,
    SourceThumbnail,
    by_server,
)
from synapse_rejection_repair.domain.model import server_of
from synapse_rejection_repair.sources.connection import Connection, marks

_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;[ -~]*)?", re.ASCII)
_THUMBNAIL_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]+")
_ANYTHING = "application/octet-stream"

_LOCAL = "local_media_repository"
_REMOTE = "remote_media_cache"
_COLUMNS = {"media_id", "media_type", "media_length", "upload_name", "quarantined_by"}
_THUMBNAIL_COLUMNS = {
    "media_id",
    "thumbnail_width",
    "thumbnail_height",
    "thumbnail_type",
    "thumbnail_method",
    "thumbnail_length",
}


class MediaTables:
    """Reads the media tables of an old database, and blocks while it does.

    Where files are follows `synapse.media.filepath.MediaFilePaths` (read in Synapse 1.151.0
    and 1.163.2).

    Args:
        connection: to the database.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        local, remote = connection.columns(_LOCAL), connection.columns(_REMOTE)
        self._there = (
            local >= _COLUMNS
            and remote >= _COLUMNS | {"media_origin", "filesystem_id"}
            and "name" in connection.columns("users")
            and connection.columns(f"{_LOCAL}_thumbnails") >= _THUMBNAIL_COLUMNS
            and connection.columns(f"{_REMOTE}_thumbnails") >= _THUMBNAIL_COLUMNS
        )
        self._hash = "sha256" if "sha256" in local & remote else "NULL"
        self._server_name: str | None = None

    def server_name(self) -> str | None:
        """The old server's name, `None` if it never had a user."""
        if self._server_name is None and self._there:
            rows = self._connection.query("SELECT name FROM users WHERE name LIKE '@%:%' LIMIT 1")
            self._server_name = server_of(rows[0][0]) if rows else None
        return self._server_name

    def find(self, wanted: Collection[Mxc]) -> dict[Mxc, SourceMedium]:
        """Those of some media that the old server has."""
        if not self._there:
            return {}
        found = {}
        for server, ids in by_server(wanted).items():
            for medium in self._of(server, ids):
                found[medium.mxc] = medium
        return found

    def _of(self, server: str, media_ids: Collection[str]) -> Iterator[SourceMedium]:
        own = server == self.server_name()
        table = _LOCAL if own else _REMOTE
        file_id = "media_id" if own else "filesystem_id"
        where, args = ("url_cache IS NULL", ()) if own else ("media_origin = ?", (server,))
        folder = ("local_content",) if own else ("remote_content", server)
        for ids in batches(media_ids):
            thumbnails = self._thumbnails(server, own, ids)
            rows = self._connection.query(
                "SELECT media_id, media_type, media_length, upload_name,"
                f" {self._hash}, quarantined_by IS NOT NULL, {file_id} FROM {table}"
                f" WHERE {where} AND media_length IS NOT NULL AND media_id IN ({marks(ids)})",
                (*args, *ids),
            )
            for media_id, type_, length, name, sha256, quarantined, stored_as in rows:
                yield SourceMedium(
                    mxc=Mxc(server, media_id),
                    type=_content_type(type_),
                    length=length,
                    upload_name=_name(name),
                    sha256=sha256,
                    quarantined=bool(quarantined),
                    path=(*folder, *_spread(stored_as)),
                    thumbnails=tuple(thumbnails[media_id]),
                )

    def _thumbnails(
        self, server: str, own: bool, ids: Collection[str]
    ) -> dict[str, list[SourceThumbnail]]:
        table = _LOCAL if own else _REMOTE
        file_id = "media_id" if own else "filesystem_id"
        where, args = ("", ()) if own else ("media_origin = ? AND ", (server,))
        folder = ("local_thumbnails",) if own else ("remote_thumbnail", server)
        found = defaultdict(list)
        rows = self._connection.query(
            "SELECT media_id, thumbnail_width, thumbnail_height, thumbnail_type,"
            f" thumbnail_method, thumbnail_length, {file_id} FROM {table}_thumbnails"
            f" WHERE {where}media_id IN ({marks(ids)})",
            (*args, *ids),
        )
        for media_id, width, height, type_, method, length, stored_as in rows:
            if isinstance(type_, str) and _THUMBNAIL_TYPE.fullmatch(type_):
                name = f"{width}-{height}-{type_.replace('/', '-')}-{method}"
                path = (*folder, *_spread(stored_as), name)
                found[media_id].append(SourceThumbnail(width, height, type_, method, length, path))
        return found


def _spread(file_id: Any) -> tuple[str, str, str]:
    text = file_id if isinstance(file_id, str) else ""
    return text[:2], text[2:4], text[4:]


def _content_type(value: Any) -> str:
    return value if isinstance(value, str) and _TYPE.fullmatch(value) else _ANYTHING


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value.isprintable() else None
