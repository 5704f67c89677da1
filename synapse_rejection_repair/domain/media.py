"""Media that events refer to, and that only an old server may have."""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import attr

from synapse_rejection_repair.domain.source import Position

# What the spec allows ("Matrix Content (mxc://) URIs"): a server name, and a media id of
# letters, digits, "_" and "-". Such an id is also safe as a part of a path.
_URI = re.compile(r"mxc://([A-Za-z0-9.:\[\]-]{1,255})/([A-Za-z0-9_-]{1,255})(?![A-Za-z0-9_-])")

_PICTURES = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
LOOKED_AT = max(len(start) for start in _PICTURES.values())
"""How many bytes of a file its type is told from."""


class Mxc(NamedTuple):
    """What an `mxc://` URI names."""

    server: str
    media_id: str

    @classmethod
    def parse(cls, uri: str) -> Mxc:
        """What a URI names that `str` has given."""
        server, _, media_id = uri.removeprefix("mxc://").rpartition("/")
        return cls(server, media_id)

    def __str__(self) -> str:
        return f"mxc://{self.server}/{self.media_id}"


def references(content: Any) -> set[Mxc]:
    """The media that an event's content names, wherever in it: also as pictures in HTML."""
    found: set[Mxc] = set()
    todo = [content]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            found.update(Mxc(*match) for match in _URI.findall(value))
        elif isinstance(value, Mapping):
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
    return found


def by_server(media: Iterable[Mxc]) -> dict[str, list[str]]:
    """The ids of some media, by server: tables of media are indexed by both, in that order."""
    found: dict[str, list[str]] = {}
    for server, media_id in media:
        found.setdefault(server, []).append(media_id)
    return found


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Redaction:
    """A redaction that is accepted, or would be.

    Attributes:
        redacts: the event that it redacts, once that is here.
        server: the server of who redacts it.
        own_only: who redacts has not the power to redact others' events: it counts only for
            those of the same server.
    """

    redacts: str
    server: str
    own_only: bool


class Mentions:
    """Which media the events of a room name, but for redacted ones; told in any order."""

    def __init__(self) -> None:
        self._named_by: dict[Mxc, set[tuple[str, str]]] = {}
        self._redacted: set[str] = set()
        self._redacted_by: set[tuple[str, str]] = set()

    def add(self, event_id: str, server: str, content: Any) -> None:
        """Takes what an event names.

        Args:
            event_id: the event.
            server: the server of its sender.
            content: its content.
        """
        for mxc in references(content):
            self._named_by.setdefault(mxc, set()).add((event_id, server))

    def redact(self, redaction: Redaction) -> None:
        """Takes what is redacted back."""
        if redaction.own_only:
            self._redacted_by.add((redaction.redacts, redaction.server))
        else:
            self._redacted.add(redaction.redacts)

    def standing(self) -> list[Mxc]:
        """What is named by an event that is not redacted."""
        return sorted(
            mxc
            for mxc, events in self._named_by.items()
            if any(e[0] not in self._redacted and e not in self._redacted_by for e in events)
        )


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SourceThumbnail:
    """A smaller picture of a medium, as the source has it.

    Attributes:
        width: in pixels.
        height: in pixels.
        type: its content type.
        method: `crop` or `scale`.
        length: its size in bytes.
        path: where its file is, below the source's media store.
    """

    width: int
    height: int
    type: str
    method: str
    length: int
    path: tuple[str, ...]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SourceMedium:
    """A medium as the source has it. Nothing of it is verified.

    Attributes:
        mxc: its name.
        type: its content type.
        length: its size in bytes.
        upload_name: what its file was called.
        sha256: the hash of its file in hexadecimal, `None` if the source has none.
        quarantined: an admin there has hidden it.
        path: where its file is, below the source's media store.
        thumbnails: smaller pictures of it.
    """

    mxc: Mxc
    type: str
    length: int
    upload_name: str | None
    sha256: str | None
    quarantined: bool
    path: tuple[str, ...]
    thumbnails: tuple[SourceThumbnail, ...] = ()


class MediaSkip(str, enum.Enum):
    """Why a medium does not arrive."""

    NOT_IN_SOURCE = "not_in_source"
    """The source does not have it either."""
    QUARANTINED = "quarantined"
    """An admin of the source has hidden it."""
    MISSING_FILE = "missing_file"
    """There is no such file in the source's media store, or none that may be read."""
    OUTSIDE = "outside"
    """Its path, or what a link there points to, is not in the source's media store."""
    OTHER_SIZE = "other_size"
    """Its file is not as long as the source says."""
    OTHER_TYPE = "other_type"
    """It is said to be a picture, and is none."""
    OTHER_HASH = "other_hash"
    """Its file does not have the hash that the source says."""
    REFUSED = "refused"
    """A module of this server that checks media refused it."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SkippedMedium:
    """A medium that does not arrive, and why."""

    mxc: Mxc
    reason: MediaSkip


def is_picture(content_type: str) -> bool:
    """Whether something of that type is one of the pictures that Synapse knows."""
    return content_type.partition(";")[0].strip().lower() in _PICTURES


def looks_like_picture(start: bytes) -> bool:
    """Whether a file that begins so is a picture, of whichever type.

    Clients do mislabel one kind of picture as another, and browsers show them all the same.
    """
    return any(start.startswith(magic) for magic in _PICTURES.values())


@attr.s(frozen=True, slots=True, auto_attribs=True)
class MediaSummary:
    """What of a room's media an import would bring.

    Attributes:
        referenced: how many media the room's events refer to.
        present: how many of them this server has already, or was the first to have.
        to_import: how many of them only the old server has, and would arrive.
        bytes: how large these are together, without thumbnails.
        unavailable: how many neither has, or the old server cannot give.
    """

    referenced: int = 0
    present: int = 0
    to_import: int = 0
    bytes: int = 0
    unavailable: int = 0


@attr.s(frozen=True, slots=True, auto_attribs=True)
class MediaProgress:
    """How far the media of an import are.

    Attributes:
        copied: how many arrived.
        bytes: how large these are together, without thumbnails.
        skipped: how many did not, by reason.
        cursor: the media of all events up to this position in the source are decided.
        coming: the medium that is being copied. A server that is killed may have it then, and
            not have counted it.
    """

    copied: int = 0
    bytes: int = 0
    skipped: Mapping[str, int] = attr.Factory(dict)
    cursor: Position | None = None
    coming: Mxc | None = None

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it: all."""
        cursor = None if self.cursor is None else list(self.cursor)
        return {
            **attr.asdict(self, recurse=False),
            "skipped": dict(self.skipped),
            "cursor": cursor,
            "coming": None if self.coming is None else list(self.coming),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MediaProgress:
        """The progress that `to_json` gave this for."""
        cursor = None if value["cursor"] is None else Position(*value["cursor"])
        # Jobs of earlier versions do not have it.
        coming = value.get("coming")
        return cls(
            **{**value, "cursor": cursor, "coming": None if coming is None else Mxc(*coming)}
        )

    def took(self, medium: SourceMedium) -> MediaProgress:
        """The progress once one more is here."""
        return attr.evolve(
            self, copied=self.copied + 1, bytes=self.bytes + medium.length, coming=None
        )

    def left_out(self, skipped: Sequence[SkippedMedium]) -> MediaProgress:
        """The progress once it is decided that some do not arrive."""
        counts = Counter(self.skipped)
        counts.update(s.reason.value for s in skipped)
        return attr.evolve(self, skipped=dict(sorted(counts.items())))
