"""Synapse's checks on receipt of a PDU, run on copies of stored events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import attr
from synapse.api.constants import EventTypes, Membership
from synapse.api.errors import AuthError, EventSizeError, SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.event_auth import (
    auth_types_for_event,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
    validate_event_for_room_version,
)
from synapse.events import EventBase
from synapse.server import HomeServer
from synapse.storage.engines import PostgresEngine
from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.decided_events import DecidedEvents
from synapse_rejection_repair.adapter.failures import Failures
from synapse_rejection_repair.adapter.integrity import IntegrityCheck
from synapse_rejection_repair.adapter.storable import unstorable
from synapse_rejection_repair.adapter.stored_events import MALFORMED, read_stored
from synapse_rejection_repair.domain.model import (
    ACCEPTED,
    Check,
    Node,
    Outcome,
    StateKey,
    Verdict,
)
from synapse_rejection_repair.errors import StepFailed
from synapse_rejection_repair.ports import Checker, Clock, StateLookup

_MISSING = Verdict(Outcome.UNKNOWN, Check.VALIDITY, "The event's JSON is missing")
_UNREADABLE = Verdict(Outcome.UNKNOWN, Check.VALIDITY, "The event's JSON cannot be read")


class EventChecker(Checker):
    """Checks events of one room, taking those decided so far as decided.

    Mirrors `FederationEventHandler._check_event_auth` (read in Synapse 1.151.0 and
    1.163.2), which cannot be told to take a rejected event as accepted.

    Args:
        hs: the homeserver.
        database: its main database.
        integrity: verifies hashes and signatures.
        clock: lets the server breathe.
        failures: events that could not be stored.
        room_version: the identifier of the room's version.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        integrity: IntegrityCheck,
        clock: Clock,
        failures: Failures,
        room_version: str,
    ) -> None:
        self._store = hs.get_datastores().main
        self._compute_auth_events = hs.get_event_auth_handler().compute_auth_events
        self._database = database
        self._postgres = isinstance(database.engine, PostgresEngine)
        self._integrity = integrity
        self._clock = clock
        self._failures = failures
        self._room_version = KNOWN_ROOM_VERSIONS[room_version]
        self.known = DecidedEvents(database, self._room_version)
        self._batch: dict[str, EventBase] = {}
        self._stored: set[str] = set()
        self._misnamed: dict[str, EventBase] = {}
        self._broken: dict[str, Verdict] = {}
        self._spam: set[str] = set()

    @override
    def decide(self, event_id: str, accepted: bool) -> None:
        self.known.decide(event_id, accepted)

    @override
    async def load(self, nodes: Sequence[Node], *, verify: bool = True) -> None:
        self._batch = {}
        self._stored = set()
        self._misnamed = {}
        self._broken = {}
        self._spam = set()
        digests: dict[bytes, EventBase] = {}
        for stored in await read_stored(self._database, [node.event_id for node in nodes]):
            event_id = stored.event_id
            self._stored.add(event_id)
            if not stored.readable:
                self._broken[event_id] = _UNREADABLE
                continue
            try:
                event = stored.as_received(self._room_version)
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
            if stored.spam:
                self._spam.add(event_id)
            digests[stored.digest] = event
            await self._clock.breathe()
        if verify:
            self._broken.update(await self._integrity.check(digests, self._clock))
        auth_ids = {a for event in self._batch.values() for a in event.auth_event_ids()}
        # At once: all of them are at hand when each is asked for.
        await self.known.read(auth_ids)

    def take(self, event: EventBase) -> None:
        """Takes an event that is not stored as the batch that is loaded."""
        self._batch = {event.event_id: event}
        self._broken = {}
        self._spam = set()

    def event(self, event_id: str) -> EventBase:
        """A loaded event, as it would arrive: not rejected, not stored.

        Raises:
            StepFailed: what is stored is not the event that the id names, or nothing is.
        """
        if event_id in self._batch:
            return self._batch[event_id]
        if event_id in self._stored:
            raise StepFailed(event_id, "what is stored of it is not the event that its id names")
        raise StepFailed(event_id, "it is not stored here any more")

    def whatever_is_stored(self, event_id: str) -> EventBase:
        """A loaded event, even if it is not the one that its id names.

        Raises:
            StepFailed: what is stored is no event, or nothing is.
        """
        return self._misnamed.get(event_id) or self.event(event_id)

    @override
    def auth_keys(self, node: Node) -> Collection[StateKey]:
        return auth_types_for_event(self._room_version, self._batch[node.event_id])

    @override
    async def check(self, node: Node, state_before: StateLookup | None, *, force: bool) -> Verdict:
        failed = self._failures.verdict(node)
        if failed is not None:
            return failed
        broken = self._broken.get(node.event_id)
        if broken is not None:
            # A damaged event that is not stored as such cannot be stored anew as rejected.
            lost = node.damaged and node.event_id not in self._batch
            return attr.evolve(broken, outcome=Outcome.UNKNOWN) if lost else broken
        event = self._batch.get(node.event_id)
        if event is None:
            return _MISSING
        verdict = await self.authorise(event, force=force)
        if not force and state_before is not None and verdict.accepted:
            verdict = await self._check_state_before(event, state_before)
        if verdict.accepted and node.event_id in self._spam:
            return attr.evolve(verdict, soft_failed=True)
        return verdict

    async def authorise(self, event: EventBase, *, force: bool = False) -> Verdict:
        """The verdict on an event by itself and by its auth events, as an outlier is judged.

        Args:
            event: the event, stored or not.
            force: accept it though it fails the rules.
        """
        invalid = _invalid(event) or unstorable(event, postgres=self._postgres)
        if invalid is not None:
            return Verdict(Outcome.REJECT, Check.VALIDITY, invalid)

        auth_events = await self.known.read(event.auth_event_ids())
        missing = [a for a in event.auth_event_ids() if a not in auth_events]
        if missing:
            return Verdict(
                Outcome.UNKNOWN,
                Check.AUTH_EVENTS,
                f"Not known to this server, but cited by the event: {', '.join(missing)}",
            )
        if force:
            # The rules for redactions mark the event for a look at the redacted event's sender.
            _refusal(event, auth_events.values())
            return ACCEPTED
        try:
            await check_state_independent_auth_rules(self._store, event, auth_events)
        except (SynapseError, *MALFORMED) as e:
            return Verdict(Outcome.REJECT, Check.AUTH_EVENTS, _words(e))
        error = _refusal(event, auth_events.values())
        return Verdict(Outcome.REJECT, Check.AUTH_EVENTS, error) if error else ACCEPTED

    async def _check_state_before(self, event: EventBase, state_before: StateLookup) -> Verdict:
        state = await state_before(auth_types_for_event(self._room_version, event))
        calculated = self._compute_auth_events(event, dict(state), for_verification=True)
        if Counter(event.auth_event_ids()) == Counter(calculated):
            return ACCEPTED
        error = _refusal(event, await self.known.accepted(calculated))
        return Verdict(Outcome.REJECT, Check.STATE_BEFORE, error) if error else ACCEPTED

    @override
    async def soft_fails(self, node: Node, current: StateLookup) -> str | None:
        event = self._batch[node.event_id]
        state = await current(self.auth_keys(node))
        return _refusal(event, await self.known.accepted(state.values()))

    @override
    async def banned(self, user_id: str, current: StateLookup) -> bool:
        state = await current([(EventTypes.Member, user_id)])
        events = await self.known.read(state.values())
        return any(event.membership == Membership.BAN for event in events.values())

    @override
    async def not_accepted(self, event_ids: Collection[str]) -> list[str]:
        accepted = {event.event_id for event in await self.known.accepted(event_ids)}
        return [i for i in event_ids if i not in accepted]


def _refusal(event: EventBase, state: Iterable[EventBase]) -> str | None:
    """Why the rules that depend on some events refuse another; `None` if they do not."""
    try:
        check_state_dependent_auth_rules(event, state)
    except (SynapseError, *MALFORMED) as e:
        return _words(e)
    return None


def _words(error: Exception) -> str:
    return error.msg if isinstance(error, SynapseError) else "It is not formed as the rules expect"


def _invalid(event: EventBase) -> str | None:
    """Why an event is not valid for its room's version; `None` if it is."""
    try:
        validate_event_for_room_version(event)
    except (AuthError, EventSizeError) as e:
        return e.msg
    return None
