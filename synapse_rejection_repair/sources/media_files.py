"""An old homeserver's media store: files that are looked at closely before they are read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from synapse_rejection_repair.domain.media import (
    LOOKED_AT,
    MediaSkip,
    SourceMedium,
    SourceThumbnail,
    is_picture,
    looks_like_picture,
)
from synapse_rejection_repair.ports_imports import MediaFiles

_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.:\[\]-]+")
_CHUNK = 1 << 20


class MediaFolder(MediaFiles):
    """Reads files of one media store, and none outside of it.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    @override
    def check(self, medium: SourceMedium, *, thoroughly: bool) -> MediaSkip | None:
        if medium.quarantined:
            return MediaSkip.QUARANTINED
        wrong = self._check(medium.path, medium.length, medium.type)
        if wrong is None and thoroughly and medium.sha256 is not None:
            return self._check_hash(medium.path, medium.sha256)
        return wrong

    @override
    def check_thumbnail(self, thumbnail: SourceThumbnail) -> MediaSkip | None:
        return self._check(thumbnail.path, thumbnail.length, thumbnail.type)

    @override
    def copy(self, path: Sequence[str], into: BinaryIO) -> str:
        digest = hashlib.sha256()
        with self._resolve(path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                into.write(chunk)
        return digest.hexdigest()

    def _resolve(self, path: Sequence[str]) -> Path:
        if not all(_PART.fullmatch(part) for part in path):
            raise PermissionError
        root = self._root.resolve(strict=True)
        found = root.joinpath(*path).resolve(strict=True)
        if not found.is_relative_to(root):
            raise PermissionError
        return found

    def _check(self, path: Sequence[str], length: int, content_type: str) -> MediaSkip | None:
        try:
            file = self._resolve(path)
        except PermissionError:
            return MediaSkip.OUTSIDE
        except (OSError, RuntimeError):
            # RuntimeError: links that go round in a circle, before Python 3.13.
            return MediaSkip.MISSING_FILE
        try:
            if not file.is_file():
                return MediaSkip.MISSING_FILE
            if file.stat().st_size != length:
                return MediaSkip.OTHER_SIZE
            with file.open("rb") as opened:
                start = opened.read(LOOKED_AT)
        except OSError:
            return MediaSkip.MISSING_FILE
        if is_picture(content_type) and not looks_like_picture(start):
            return MediaSkip.OTHER_TYPE
        return None

    def _check_hash(self, path: Sequence[str], sha256: str) -> MediaSkip | None:
        digest = hashlib.sha256()
        try:
            with self._resolve(path).open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError:
            return MediaSkip.MISSING_FILE
        return None if digest.hexdigest() == sha256.lower() else MediaSkip.OTHER_HASH
