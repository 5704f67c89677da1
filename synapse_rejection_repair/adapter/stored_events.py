"""Events as the database has them, made into Synapse's own objects."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

import attr
from synapse.api.errors import SynapseError
from synapse.api.room_versions import RoomVersion
from synapse.events import EventBase, make_event_from_dict

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.json_object import json_object

MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What Synapse raises, besides its own errors, of an event that is not formed as it expects."""

_SPAM = ("policy_server_spammy", "spam_checker_spammy")
_KEPT_METADATA = ("out_of_band_membership", "send_on_behalf_of", "proactively_send", *_SPAM)
"""What of an event's internal metadata outlives receiving it anew.

The rest is either decided again (`outlier`, `soft_failed`, `recheck_redaction`) or ties
the event to the request that sent it (`txn_id`, `token_id`, `device_id`).
"""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class StoredEvent:
    """An event as the database has it.

    Attributes:
        event_id: the id that it is stored under.
        json: its JSON.
        metadata: its internal metadata, as JSON.
        reason: why it was rejected; `None` if it was accepted.
        outlier: whether it is an outlier.
    """

    event_id: str
    json: str
    metadata: str
    reason: str | None
    outlier: bool

    @property
    def readable(self) -> bool:
        """Whether its JSON is an object at all."""
        return bool(json_object(self.json))

    @property
    def digest(self) -> bytes:
        """What tells it from all others."""
        return hashlib.sha256(f"{self.event_id} {self.json}".encode()).digest()

    @property
    def spam(self) -> bool:
        """Whether a policy server or a module took it for spam when it came.

        `FederationBase._check_sigs_and_hash` decides that before the authorization rules are run;
        what those reject is soft-failed for nothing else (read in Synapse 1.151.0 and 1.163.2).
        """
        metadata = json_object(self.metadata)
        rejected = self.reason is not None
        return any(metadata.get(mark) for mark in _SPAM) or bool(
            rejected and metadata.get("soft_failed")
        )

    def as_received(self, version: RoomVersion) -> EventBase:
        """The event as it would arrive: not rejected, not stored.

        Raises:
            SynapseError: it is no event of such a room.
        """
        pdu, metadata = json_object(self.json), json_object(self.metadata)
        # Synapse finds out anew what the event replaces, and keeps what is there if nothing.
        if isinstance(pdu.get("unsigned"), dict):
            pdu["unsigned"].pop("replaces_state", None)
        kept = {k: metadata[k] for k in _KEPT_METADATA if k in metadata}
        event = _made(pdu, version, kept)
        event.internal_metadata.outlier = bool(self.outlier)
        return event

    def as_sent(self, version: RoomVersion) -> EventBase:
        """The event as another server sends it, which knows nothing of what is noted of it here.

        Raises:
            SynapseError: it is no event of such a room.
        """
        return _made(json_object(self.json), version, {})

    def as_decided(self, version: RoomVersion, accepted: bool) -> EventBase:
        """The event as it is stored, but accepted or rejected as is said.

        Raises:
            SynapseError: it is no event of such a room.
        """
        rejected = None if accepted else (self.reason or "auth_error")
        event = _made(json_object(self.json), version, json_object(self.metadata), rejected)
        event.internal_metadata.outlier = bool(self.outlier)
        return event


def _made(
    pdu: dict[str, Any],
    version: RoomVersion,
    metadata: dict[str, Any],
    rejected: str | None = None,
) -> EventBase:
    try:
        event = make_event_from_dict(
            pdu, version, internal_metadata_dict=metadata, rejected_reason=rejected
        )
        # Synapse 1.151.0 looks only now.
        event.event_id  # noqa: B018
        require_references(event)
    except MALFORMED as e:
        raise SynapseError(HTTPStatus.BAD_REQUEST, "It is not formed as an event is") from e
    return event


def require_references(event: EventBase) -> None:
    """Raises one of `MALFORMED` where an event refers to what is no event's id.

    Synapse 1.151.0 takes whatever there is.
    """
    if not all(isinstance(i, str) for i in (*event.prev_event_ids(), *event.auth_event_ids())):
        raise TypeError("a reference that is no text")


async def read_stored(database: Database, event_ids: Collection[str]) -> list[StoredEvent]:
    """The events of those ids that are stored with their JSON."""
    rows = await database.rows_of(
        "read_events",
        "SELECT ej.event_id, ej.json, ej.internal_metadata, r.reason, e.outlier"
        " FROM event_json AS ej INNER JOIN events AS e USING (event_id)"
        " LEFT JOIN rejections AS r USING (event_id) WHERE",
        event_ids,
        "ej.event_id",
    )
    return [StoredEvent(*row) for row in rows]
