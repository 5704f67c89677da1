"""Synapse's checks on receipt of a PDU, run on copies of stored events."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from synapse.api.constants import EventTypes, Membership
from synapse.api.errors import AuthError, EventSizeError, SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.event_auth import (
    auth_types_for_event,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
    validate_event_for_room_version,
)
from synapse.events import EventBase, make_event_from_dict
from synapse.server import HomeServer
from synapse.storage._base import db_to_json

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.integrity import IntegrityCheck
from synapse_rejection_repair.domain.model import (
    ACCEPTED,
    Check,
    Node,
    Outcome,
    StateKey,
    Verdict,
)
from synapse_rejection_repair.errors import StepFailed
from synapse_rejection_repair.ports import Clock, StateLookup

_REMEMBERED = 2000
"""How many events beside the loaded batch are kept in memory."""

_KEPT_METADATA = ("out_of_band_membership", "send_on_behalf_of", "proactively_send")
"""What of an event's internal metadata outlives receiving it anew.

The rest is either decided again (`outlier`, `soft_failed`, `recheck_redaction`) or ties
the event to the request that sent it (`txn_id`, `token_id`, `device_id`).
"""


class EventChecker:
    """Checks events of one room, taking those decided so far as decided.

    Mirrors `FederationEventHandler._check_event_auth` (read in Synapse 1.151.0 and
    1.163.2), which cannot be told to take a rejected event as accepted.

    Args:
        hs: the homeserver.
        database: its main database.
        integrity: verifies hashes and signatures.
        clock: lets the server breathe.
        room_id: the room.
        room_version: its version's identifier.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        integrity: IntegrityCheck,
        clock: Clock,
        room_id: str,
        room_version: str,
    ) -> None:
        self._store = hs.get_datastores().main
        self._compute_auth_events = hs.get_event_auth_handler().compute_auth_events
        self._database = database
        self._integrity = integrity
        self._clock = clock
        self._room_id = room_id
        self._room_version = KNOWN_ROOM_VERSIONS[room_version]
        self._decided: dict[str, bool] = {}
        self._batch: dict[str, EventBase] = {}
        self._misnamed: dict[str, EventBase] = {}
        self._broken: dict[str, Verdict] = {}
        self._remembered: OrderedDict[str, EventBase] = OrderedDict()
        self.guests: dict[str, EventBase] = {}

    def decide(self, event_id: str, accepted: bool) -> None:
        """Takes an event as accepted or as rejected from now on."""
        self._decided[event_id] = accepted
        self._remembered.pop(event_id, None)

    async def load(self, nodes: Sequence[Node], *, verify: bool = True) -> None:
        """Reads a batch of events and, if told so, verifies their hashes and signatures."""
        self._batch = {}
        self._misnamed = {}
        self._broken = {}
        digests: dict[bytes, EventBase] = {}
        ids = [node.event_id for node in nodes]
        for event_id, row in (await self._rows(ids)).items():
            try:
                event = self._build(row, fresh=True)
            except SynapseError as e:
                self._broken[event_id] = Verdict(Outcome.REJECT, Check.VALIDITY, e.msg)
                continue
            if event.event_id != event_id:
                self._broken[event_id] = Verdict(
                    Outcome.REJECT, Check.HASH, "The event's id is not the hash of the event"
                )
                self._misnamed[event_id] = event
                continue
            self._batch[event_id] = event
            digests[_digest(row)] = event
            await self._clock.breathe()
        if verify:
            self._broken.update(await self._integrity.check(digests, self._clock))
        auth_ids = {a for event in self._batch.values() for a in event.auth_event_ids()}
        await self.events(auth_ids)

    def take(self, event: EventBase) -> None:
        """Takes an event that is not stored as the batch that is loaded."""
        self._batch = {event.event_id: event}
        self._broken = {}

    def remember(self, event: EventBase) -> None:
        """Takes an event that is not stored yet as one that can be cited."""
        self._remembered[event.event_id] = event
        self._remembered.move_to_end(event.event_id)

    def event(self, event_id: str) -> EventBase:
        """A loaded event, as it would arrive: not rejected, not stored.

        Raises:
            StepFailed: what is stored is not the event that the id names.
        """
        if event_id not in self._batch:
            raise StepFailed(event_id, "what is stored of it is not the event that its id names")
        return self._batch[event_id]

    def whatever_is_stored(self, event_id: str) -> EventBase:
        """A loaded event, even if it is not the one that its id names."""
        return self._batch.get(event_id) or self._misnamed[event_id]

    def auth_keys(self, node: Node) -> Collection[StateKey]:
        """The entries of a state that the rules look at for a loaded event."""
        return auth_types_for_event(self._room_version, self._batch[node.event_id])

    async def check(self, node: Node, state_before: StateLookup | None, *, force: bool) -> Verdict:
        """The verdict on a loaded event.

        Args:
            node: the event.
            state_before: the state before it; `None` for an outlier, which has none.
            force: accept it though it fails checks 4 or 5.
        """
        if node.event_id in self._broken:
            return self._broken[node.event_id]
        event = self._batch.get(node.event_id)
        if event is None:
            return Verdict(Outcome.UNKNOWN, Check.VALIDITY, "The event's JSON is missing")
        verdict = await self.authorise(event, force=force)
        if force or state_before is None or not verdict.accepted:
            return verdict
        return await self._check_state_before(event, state_before)

    async def authorise(self, event: EventBase, *, force: bool = False) -> Verdict:
        """The verdict on an event by itself and by its auth events, as an outlier is judged.

        Args:
            event: the event, stored or not.
            force: accept it though it fails the rules.
        """
        verdict = _validity(event)
        if verdict is not None:
            return verdict

        auth_events = await self.events(event.auth_event_ids())
        missing = [a for a in event.auth_event_ids() if a not in auth_events]
        if missing:
            return Verdict(
                Outcome.UNKNOWN,
                Check.AUTH_EVENTS,
                f"Not known to this server, but cited by the event: {', '.join(missing)}",
            )
        if force:
            await self._run_rules_for_their_marks(event, auth_events)
            return ACCEPTED
        try:
            await check_state_independent_auth_rules(self._store, event, auth_events)
            check_state_dependent_auth_rules(event, auth_events.values())
        except AuthError as e:
            return Verdict(Outcome.REJECT, Check.AUTH_EVENTS, e.msg)
        return ACCEPTED

    async def _run_rules_for_their_marks(
        self, event: EventBase, auth_events: Mapping[str, EventBase]
    ) -> None:
        # The rules for redactions mark the event for a look at the redacted event's sender.
        try:
            check_state_dependent_auth_rules(event, auth_events.values())
        except AuthError:
            return

    async def _check_state_before(self, event: EventBase, state_before: StateLookup) -> Verdict:
        state = await state_before(auth_types_for_event(self._room_version, event))
        calculated = self._compute_auth_events(event, dict(state), for_verification=True)
        if Counter(event.auth_event_ids()) == Counter(calculated):
            return ACCEPTED
        try:
            check_state_dependent_auth_rules(event, await self._accepted(calculated))
        except AuthError as e:
            return Verdict(Outcome.REJECT, Check.STATE_BEFORE, e.msg)
        return ACCEPTED

    async def soft_fails(self, node: Node, current: StateLookup) -> str | None:
        """Why a loaded event fails against the room's current state (check 6), if it does."""
        event = self._batch[node.event_id]
        state = await current(self.auth_keys(node))
        try:
            check_state_dependent_auth_rules(event, await self._accepted(state.values()))
        except AuthError as e:
            return e.msg
        return None

    async def banned(self, user_id: str, current: StateLookup) -> bool:
        """Whether a user is banned by a state of the room."""
        state = await current([(EventTypes.Member, user_id)])
        events = await self.events(state.values())
        return any(event.membership == Membership.BAN for event in events.values())

    async def _accepted(self, event_ids: Collection[str]) -> list[EventBase]:
        events = await self.events(event_ids)
        return [e for e in events.values() if e.rejected_reason is None]

    def introduce(self, events: Iterable[EventBase]) -> None:
        """Makes accepted events known that are not stored."""
        self.guests.update((event.event_id, event) for event in events)

    async def not_accepted(self, event_ids: Collection[str]) -> list[str]:
        """Those of the events that are rejected so far, or not known."""
        known = await self.events(event_ids)
        return [i for i in event_ids if i not in known or known[i].rejected_reason is not None]

    async def events(self, event_ids: Collection[str]) -> dict[str, EventBase]:
        """Events as decided on so far; unknown ids are left out."""
        found: dict[str, EventBase] = {}
        missing = []
        for event_id in event_ids:
            event = self._remembered.get(event_id)
            if event_id in self.guests:
                found[event_id] = self.guests[event_id]
            elif event is None:
                missing.append(event_id)
            else:
                self._remembered.move_to_end(event_id)
                found[event_id] = event
        for event_id, row in (await self._rows(missing)).items():
            try:
                event = self._build(row, fresh=False)
            except SynapseError:
                continue
            found[event_id] = self._remembered[event_id] = event
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return {event_id: found[event_id] for event_id in event_ids if event_id in found}

    async def _rows(self, event_ids: Collection[str]) -> dict[str, tuple[Any, ...]]:
        rows = await self._database.rows_of(
            "read_events",
            "SELECT ej.event_id, ej.json, ej.internal_metadata, r.reason, e.outlier"
            " FROM event_json AS ej INNER JOIN events AS e USING (event_id)"
            " LEFT JOIN rejections AS r USING (event_id) WHERE",
            event_ids,
            "ej.event_id",
        )
        return {row[0]: row for row in rows}

    def _build(self, row: tuple[Any, ...], *, fresh: bool) -> EventBase:
        event_id, json, metadata, reason, outlier = row
        accepted = fresh or self._decided.get(event_id, reason is None)
        internal_metadata = db_to_json(metadata)
        event_dict = db_to_json(json)
        if fresh:
            # Synapse finds out anew what the event replaces, and keeps what is there if nothing.
            event_dict.get("unsigned", {}).pop("replaces_state", None)
            internal_metadata = {
                k: internal_metadata[k] for k in _KEPT_METADATA if k in internal_metadata
            }
        event = make_event_from_dict(
            event_dict=event_dict,
            room_version=self._room_version,
            internal_metadata_dict=internal_metadata,
            rejected_reason=None if accepted else (reason or "auth_error"),
        )
        event.internal_metadata.outlier = bool(outlier)
        return event


def _digest(row: tuple[Any, ...]) -> bytes:
    event_id, json, *_ = row
    return hashlib.sha256(f"{event_id} {json}".encode()).digest()


def _validity(event: EventBase) -> Verdict | None:
    try:
        validate_event_for_room_version(event)
    except (AuthError, EventSizeError) as e:
        return Verdict(Outcome.REJECT, Check.VALIDITY, e.msg)
    return None
