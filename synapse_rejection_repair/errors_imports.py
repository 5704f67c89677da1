"""What can go wrong with an old database or an import; `rest.errors` makes it HTTP."""

from __future__ import annotations

import attr

from synapse_rejection_repair.errors import RepairError


@attr.s(auto_exc=True, auto_attribs=True)
class UnknownSource(RepairError):
    """The configuration names no such old database."""

    name: str

    def __str__(self) -> str:
        return f"There is no source '{self.name}' in the module's configuration"


@attr.s(auto_exc=True, auto_attribs=True)
class UnknownSourceRoom(RepairError):
    """The old database has no events of the room."""

    name: str
    room_id: str

    def __str__(self) -> str:
        return f"Source '{self.name}' has no events of room {self.room_id}"


@attr.s(auto_exc=True, auto_attribs=True)
class SourceUnavailable(RepairError):
    """The old database cannot be opened or read. Says nothing of where it is."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"Source '{self.name}' cannot be read: {self.reason}"


@attr.s(auto_exc=True, auto_attribs=True)
class SourceRefused(RepairError):
    """The old database is none of Synapse's, or too old."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"Source '{self.name}' is refused: {self.reason}"


@attr.s(auto_exc=True, auto_attribs=True)
class OtherRoomVersion(RepairError):
    """The old database has the room with another version than this server."""

    room_id: str
    here: str
    there: str

    def __str__(self) -> str:
        return (
            f"Room {self.room_id} has version {self.here} here, but {self.there} in the source:"
            " that cannot be the same room"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class NoMediaStore(RepairError):
    """Media are asked for, and the configuration does not say where the source keeps them."""

    name: str

    def __str__(self) -> str:
        return (
            f"Source '{self.name}' has no 'media_store_path' in the module's configuration, so its"
            " media cannot be imported"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class NoMediaRepository(RepairError):
    """The process that writes the room's events keeps no media."""

    def __str__(self) -> str:
        return (
            "The process that writes this room's events has no media repository"
            " ('enable_media_repo'), so media cannot be imported by it"
        )


@attr.s(auto_exc=True, auto_attribs=True)
class MediaNotCopied(RepairError):
    """A file cannot be read or written any more. Says nothing of where it is."""

    reason: str

    def __str__(self) -> str:
        return f"A media file cannot be copied: {self.reason}"
