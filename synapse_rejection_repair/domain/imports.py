"""What an import is asked for, what it finds in the source, and how far it is."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attr

from synapse_rejection_repair.domain.job import Job
from synapse_rejection_repair.domain.media import MediaProgress, MediaSummary
from synapse_rejection_repair.domain.model import Check
from synapse_rejection_repair.domain.source import Position
from synapse_rejection_repair.domain.spans import Span, without

MAX_RATE = 1_000_000
"""The highest number of events per second that a request may ask for."""


class Held(enum.Enum):
    """How this server has an event already."""

    FULL = "full"
    """With the state at it, accepted."""
    REJECTED = "rejected"
    """With the state at it, rejected."""
    OUTLIER = "outlier"
    """Without the state at it, accepted."""
    REJECTED_OUTLIER = "rejected_outlier"
    """Without the state at it, rejected: that is decided anew."""

    @property
    def in_full(self) -> bool:
        """Whether the state at it is here."""
        return self in (Held.FULL, Held.REJECTED)


class Skip(str, enum.Enum):
    """Why an event does not arrive, or arrives as rejected."""

    REJECTED_BY_SOURCE = "rejected_by_source"
    """Stored as rejected: the source had rejected it and, judged anew, it fails here as well.

    Not of those that this server holds as accepted outliers: there it counts which check fails.
    """
    REJECTED_HERE = "rejected_here"
    """This server has it, and had rejected it. That is a matter for a repair."""
    MISSING_JSON = "missing_json"
    """The source has no JSON of it, or what it has is no JSON."""
    MALFORMED = "malformed"
    """It is no event of the room's version."""
    BAD_EVENT_ID = "bad_event_id"
    """Its id is not the hash of its JSON, or another than its JSON says."""
    OTHER_ROOM = "other_room"
    """Its JSON is an event of another room."""
    BAD_SIGNATURE = "bad_signature"
    """A signature that it needs is missing or wrong."""
    UNKNOWN_KEY = "unknown_key"
    """The key that it is signed with is cached neither here nor in the source."""
    MISSING_AUTH_EVENTS = "missing_auth_events"
    """It cites events that neither this server nor the source has."""
    UNKNOWN_STATE = "unknown_state"
    """Events before it are missing, and the source does not know the state at it."""
    UNSTORABLE = "unstorable"
    """Synapse fails to store it as accepted. Stored as rejected, where that succeeds."""
    AUTH_EVENTS = "auth_events"
    """Stored as rejected: the authorization rules, against its auth events."""
    STATE_BEFORE = "state_before"
    """Stored as rejected: the authorization rules, against the state before it."""

    @property
    def final(self) -> bool:
        """Whether nobody could give us the event in a form that can arrive."""
        return self in (
            Skip.REJECTED_BY_SOURCE,
            Skip.MALFORMED,
            Skip.OTHER_ROOM,
            Skip.UNSTORABLE,
            Skip.AUTH_EVENTS,
            Skip.STATE_BEFORE,
        )

    @classmethod
    def failing(cls, check: Check | None, *, by_source: bool) -> Skip:
        """Why an event arrives as rejected that fails one of the authorization rules' checks.

        Args:
            check: the check.
            by_source: it was rejected before, and only there.
        """
        if by_source:
            return cls.REJECTED_BY_SOURCE
        return cls.STATE_BEFORE if check is Check.STATE_BEFORE else cls.AUTH_EVENTS


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Skipped:
    """An event that does not arrive, or arrives as rejected.

    Attributes:
        event_id: the event, by the id that the source gives it.
        reason: why.
        error: more about it, in a sentence.
    """

    event_id: str
    reason: Skip
    error: str | None = None


@attr.s(frozen=True, slots=True, auto_attribs=True)
class ImportRequest:
    """What the admin asked for.

    Attributes:
        source: the name of the old database in the module's configuration.
        verify_signatures: check signatures as well, with the keys that are cached.
        events_per_second: not to import faster than that; `None` for as fast as possible.
        media: bring the media too that the room's events refer to.
        judge_rejected: have the rules decide anew on what the source has rejected.
    """

    source: str
    verify_signatures: bool = False
    events_per_second: int | None = None
    media: bool = False
    judge_rejected: bool = False

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it: all."""
        return attr.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ImportRequest:
        """The request that `to_json` gave this for."""
        return cls(**value)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class ImportProgress:
    """How far an import is.

    Attributes:
        total: how many events it has to decide on (0 until it has counted): those that are lacking,
            and whatever else is found on the way.
        done: how many of them are decided.
        imported: how many arrived and were accepted.
        skipped: how many did not, by reason.
        events_per_second: how fast it is.
        cursor: everything before this position in the source is decided.
        reserved: the stream orderings that are set aside for what is still to come.
        lowest: the lowest stream ordering that was set aside at first.
        media: how far the media are.
    """

    total: int = 0
    done: int = 0
    imported: int = 0
    skipped: Mapping[str, int] = attr.Factory(dict)
    events_per_second: float = 0.0
    cursor: Position | None = None
    reserved: tuple[Span, ...] = ()
    lowest: int | None = None
    media: MediaProgress = attr.Factory(MediaProgress)

    @property
    def eta_ms(self) -> int | None:
        """How long the events still take, in milliseconds; `None` while that is unknown."""
        if not self.events_per_second:
            return None
        return int((self.total - self.done) / self.events_per_second * 1000)

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it: all."""
        return {
            **attr.asdict(self, recurse=False),
            "skipped": dict(self.skipped),
            "cursor": None if self.cursor is None else list(self.cursor),
            "reserved": [list(span) for span in self.reserved],
            "media": self.media.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ImportProgress:
        """The progress that `to_json` gave this for."""
        return cls(
            **{
                **value,
                "cursor": None if value["cursor"] is None else Position(*value["cursor"]),
                "reserved": tuple((low, high) for low, high in value["reserved"]),
                "media": MediaProgress.from_json(value["media"]),
            }
        )

    def stored(self, imported: int, orderings: Collection[int]) -> ImportProgress:
        """The progress once more events are stored.

        Args:
            imported: how many were accepted.
            orderings: those of the reserved stream orderings that they took.
        """
        return attr.evolve(
            self._decided(imported),
            imported=self.imported + imported,
            reserved=without(self.reserved, orderings),
        )

    def passed(self, cursor: Position | None, skipped: Sequence[Skipped]) -> ImportProgress:
        """The progress once all before a position is decided.

        Args:
            cursor: the position; `None` to leave it where it is.
            skipped: the events that did not arrive.
        """
        counts = Counter(self.skipped)
        counts.update(s.reason.value for s in skipped)
        return attr.evolve(
            self._decided(len(skipped)),
            cursor=cursor or self.cursor,
            skipped=dict(sorted(counts.items())),
        )

    def _decided(self, count: int) -> ImportProgress:
        done = self.done + count
        return attr.evolve(self, done=done, total=max(self.total, done))


ImportJob = Job[ImportRequest, ImportProgress]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Summary:
    """What an import of a room would bring.

    Attributes:
        source_events: the room's events in the source that are no outliers there.
        present: how many of them this server has already, with the state at them.
        to_import: how many would arrive and be accepted.
        outliers: how many of those this server holds as outliers so far.
        rejected: how many the source rejected, which this server does not have and would reject.
        soft_failed: how many of those to import the source soft-failed.
        bad_hash: how many have an id or a content that is not what was hashed: the former
            do not arrive, the latter arrive redacted.
        bad_signature: how many have a wrong signature, or one by a key that nobody has cached,
            where signatures are to be checked. They do not arrive.
        unreadable: how many are no events of the room: without JSON, malformed, or of
            another room. They do not arrive.
        fails_auth: how many fail the authorization rules, by the states that the source has,
            or cite events that nobody has. The former arrive as rejected, the latter do not.
        gaps: how many of those to import follow events that neither has.
        encrypted: how many of those to import only those can read who kept the keys.
        hidden_by_visibility: how many of those to import no user of this server who is in
            the room may see, by the history visibility at the time.
        erased: how many of those to import arrive without what their senders said, who have had the
            source erase it.
        newer: how many of those to import come after all that this server has of the room. They
            would be history all the same: no part of the current state, nor what the room ends
            with.
        media: what the room's events refer to.
    """

    source_events: int = 0
    present: int = 0
    to_import: int = 0
    outliers: int = 0
    rejected: int = 0
    soft_failed: int = 0
    bad_hash: int = 0
    bad_signature: int = 0
    unreadable: int = 0
    fails_auth: int = 0
    gaps: int = 0
    encrypted: int = 0
    hidden_by_visibility: int = 0
    erased: int = 0
    newer: int = 0
    media: MediaSummary = attr.Factory(MediaSummary)
