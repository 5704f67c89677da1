"""The one place in which this module's errors become Matrix errors."""

from __future__ import annotations

from http import HTTPStatus

from synapse.api.errors import Codes, SynapseError

from synapse_rejection_repair.errors import (
    FactsChanged,
    InvalidParam,
    JobOver,
    JobRunning,
    NotInRoom,
    NotRejected,
    PartialState,
    RepairError,
    StillStarting,
    UnknownEvent,
    UnknownEvents,
    UnknownJob,
    UnknownRoom,
    UnsupportedRoomVersion,
    UnsupportedSynapse,
)
from synapse_rejection_repair.errors_imports import (
    NoMediaStore,
    OtherRoomVersion,
    SourceRefused,
    SourceUnavailable,
    UnknownSource,
    UnknownSourceRoom,
)
from synapse_rejection_repair.errors_peers import (
    NotHeldElsewhere,
    PeerFailed,
    PeerStateRefused,
    StateMoved,
)
from synapse_rejection_repair.errors_undo import (
    AlreadyUndone,
    BuiltUpon,
    EventsGone,
    JournalGone,
    NothingLeft,
    NotOver,
    NotStoppable,
    NotUndoable,
    StateGone,
    TouchedSince,
)
from synapse_rejection_repair.rest.serialise import MOST_SHOWN

CONFLICT = "M_CONFLICT"

_HTTP: dict[type[RepairError], tuple[HTTPStatus, str]] = {
    InvalidParam: (HTTPStatus.BAD_REQUEST, Codes.INVALID_PARAM),
    NoMediaStore: (HTTPStatus.BAD_REQUEST, Codes.INVALID_PARAM),
    NotRejected: (HTTPStatus.BAD_REQUEST, Codes.INVALID_PARAM),
    UnknownRoom: (HTTPStatus.NOT_FOUND, Codes.NOT_FOUND),
    UnknownEvent: (HTTPStatus.NOT_FOUND, Codes.NOT_FOUND),
    UnknownEvents: (HTTPStatus.NOT_FOUND, Codes.NOT_FOUND),
    UnknownJob: (HTTPStatus.NOT_FOUND, Codes.NOT_FOUND),
    JobRunning: (HTTPStatus.CONFLICT, CONFLICT),
    JobOver: (HTTPStatus.CONFLICT, CONFLICT),
    NotStoppable: (HTTPStatus.CONFLICT, CONFLICT),
    AlreadyUndone: (HTTPStatus.CONFLICT, CONFLICT),
    BuiltUpon: (HTTPStatus.CONFLICT, CONFLICT),
    EventsGone: (HTTPStatus.CONFLICT, CONFLICT),
    JournalGone: (HTTPStatus.CONFLICT, CONFLICT),
    StateGone: (HTTPStatus.CONFLICT, CONFLICT),
    TouchedSince: (HTTPStatus.CONFLICT, CONFLICT),
    NotOver: (HTTPStatus.CONFLICT, CONFLICT),
    NothingLeft: (HTTPStatus.CONFLICT, CONFLICT),
    NotUndoable: (HTTPStatus.CONFLICT, CONFLICT),
    FactsChanged: (HTTPStatus.CONFLICT, CONFLICT),
    StateMoved: (HTTPStatus.CONFLICT, CONFLICT),
    NotHeldElsewhere: (HTTPStatus.CONFLICT, CONFLICT),
    PeerFailed: (HTTPStatus.CONFLICT, CONFLICT),
    PeerStateRefused: (HTTPStatus.CONFLICT, CONFLICT),
    NotInRoom: (HTTPStatus.CONFLICT, CONFLICT),
    PartialState: (HTTPStatus.CONFLICT, CONFLICT),
    UnsupportedRoomVersion: (HTTPStatus.CONFLICT, Codes.UNSUPPORTED_ROOM_VERSION),
    UnknownSource: (HTTPStatus.NOT_FOUND, Codes.NOT_FOUND),
    UnknownSourceRoom: (HTTPStatus.NOT_FOUND, Codes.NOT_FOUND),
    SourceRefused: (HTTPStatus.CONFLICT, CONFLICT),
    SourceUnavailable: (HTTPStatus.CONFLICT, CONFLICT),
    OtherRoomVersion: (HTTPStatus.CONFLICT, CONFLICT),
    StillStarting: (HTTPStatus.SERVICE_UNAVAILABLE, Codes.UNKNOWN),
    UnsupportedSynapse: (HTTPStatus.SERVICE_UNAVAILABLE, Codes.UNKNOWN),
}


def to_http(error: RepairError) -> SynapseError:
    """The Matrix error that says what an error of this module says."""
    status, errcode = _HTTP.get(type(error), (HTTPStatus.INTERNAL_SERVER_ERROR, Codes.UNKNOWN))
    more = None
    if isinstance(error, BuiltUpon | EventsGone):
        more = {"events": list(error.event_ids[:MOST_SHOWN])}
    return SynapseError(status, str(error), errcode, more)
