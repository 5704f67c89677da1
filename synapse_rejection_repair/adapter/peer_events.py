"""Fetching events that are not here from another server, and checking them in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

from canonicaljson import encode_canonical_json
from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import EventBase
from synapse.federation.federation_base import event_from_pdu_json
from synapse.logging.context import run_in_background
from synapse.server import HomeServer
from synapse.util.async_helpers import concurrently_execute
from synapse.util.iterutils import sorted_topologically

from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.integrity import IntegrityCheck
from synapse_rejection_repair.adapter.stored_events import MALFORMED, require_references
from synapse_rejection_repair.domain.model import StateKey
from synapse_rejection_repair.errors_peers import PeerFailed, PeerStateRefused
from synapse_rejection_repair.ports import Clock

_SECONDS = 60.0
"""How long a server has to give the events that are missing here, in seconds."""

_AT_ONCE = 5
"""How many events are asked for at a time: as many as Synapse asks for."""

_MOST_MISSING = 1000
"""How many events of a state may be missing here, their authority included."""

_TICK = 0.05

MakeChecker = Callable[[str], EventChecker]


class PeerEvents:
    """Believes nothing: what is fetched passes the checks that outliers pass, or is refused.

    Args:
        hs: the homeserver.
        database: its main database.
        integrity: verifies hashes and signatures.
        make_checker: gives a fresh checker for a room of a version.
        clock: tells the time.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        integrity: IntegrityCheck,
        make_checker: MakeChecker,
        clock: Clock,
    ) -> None:
        self._transport = hs.get_federation_transport_client()
        self._database = database
        self._integrity = integrity
        self._make_checker = make_checker
        self._clock = clock

    async def known_keys(
        self, room_id: str, server: str, event_ids: Collection[str]
    ) -> dict[str, StateKey]:
        """Which entry of a state each of the events holds that are here.

        Raises:
            PeerStateRefused: one is of another room, or no state event.
        """
        rows = await self._database.rows_of(
            "known_state",
            "SELECT e.event_id, e.room_id, e.type, se.state_key FROM events AS e"
            " LEFT JOIN state_events AS se USING (event_id) WHERE",
            event_ids,
            "e.event_id",
        )
        keys: dict[str, StateKey] = {}
        for event_id, found_room_id, type_, state_key in rows:
            if found_room_id != room_id:
                raise PeerStateRefused(server, event_id, "it is of another room")
            if state_key is None:
                raise PeerStateRefused(server, event_id, "it is no state event")
            keys[event_id] = type_, state_key
        return keys

    async def fetch(
        self, room_id: str, room_version: str, server: str, event_ids: Collection[str]
    ) -> dict[str, EventBase]:
        """Events that are not here, and those not here that they cite: checked, not stored.

        Raises:
            PeerFailed: the server does not answer.
            PeerStateRefused: it does not give an event, or one that cannot be believed.
        """
        deadline = self._clock.now_ms() + _SECONDS * 1000
        fetched: dict[str, EventBase] = {}
        missing = set(event_ids)
        while missing:
            if len(fetched) + len(missing) > _MOST_MISSING:
                raise PeerFailed(
                    server, f"More than {_MOST_MISSING} events of it are not known here"
                )
            for event_id, pdu in (await self._pdus(server, missing, deadline)).items():
                event = _event(room_version, pdu)
                if event is None or event.event_id != event_id:
                    raise PeerStateRefused(server, event_id, "it is not given as what it is")
                if event.room_id != room_id:
                    raise PeerStateRefused(server, event_id, "it is of another room")
                event.internal_metadata.outlier = True
                fetched[event_id] = event
            cited = {a for event in fetched.values() for a in event.auth_event_ids()}
            missing = cited - fetched.keys()
            missing -= (await self.known_keys(room_id, server, missing)).keys()
        await self._check(room_id, room_version, server, fetched)
        return fetched

    async def _pdus(
        self, server: str, event_ids: Collection[str], deadline: float
    ) -> dict[str, object]:
        answers: dict[str, object] = {}

        async def fetch(event_id: str) -> None:
            if self._clock.now_ms() > deadline:
                return
            try:
                answer = await self._transport.get_event(server, event_id, timeout=10_000)
                answers[event_id] = answer["pdus"][0]
            except Exception:
                # What a peer writes is not repeated: whoever runs it could write anything.
                answers[event_id] = None

        run_in_background(concurrently_execute, fetch, sorted(event_ids), _AT_ONCE)
        while len(answers) < len(event_ids):
            if self._clock.now_ms() > deadline:
                raise PeerFailed(server, f"Its events did not come within {_SECONDS:.0f} seconds")
            await self._clock.pause(_TICK)
        for event_id in sorted(event_ids):
            if answers[event_id] is None:
                raise PeerStateRefused(server, event_id, "it is not known here, nor given by it")
        return answers

    async def _check(
        self, room_id: str, room_version: str, server: str, fetched: Mapping[str, EventBase]
    ) -> None:
        """Checks 2, 3 and 4, by what is accepted here now."""
        failed = await self._integrity.check(
            {_digest(event): event for event in fetched.values()}, self._clock
        )
        for event_id, verdict in sorted(failed.items()):
            raise PeerStateRefused(server, event_id, verdict.error or "")
        checker = self._make_checker(room_version)
        ordered = _parents_first(fetched)
        for circular in sorted(fetched.keys() - set(ordered)):
            raise PeerStateRefused(server, circular, "it cites itself, through others")
        for event_id in ordered:
            verdict = await checker.authorise(fetched[event_id])
            if not verdict.accepted:
                raise PeerStateRefused(server, event_id, verdict.error or "")
            checker.known.introduce([fetched[event_id]])
            await self._clock.breathe()


def _digest(event: EventBase) -> bytes:
    return hashlib.sha256(encode_canonical_json(event.get_dict())).digest()


def _event(room_version: str, pdu: object) -> EventBase | None:
    if not isinstance(pdu, dict):
        return None
    try:
        event = event_from_pdu_json(pdu, KNOWN_ROOM_VERSIONS[room_version])
        require_references(event)
    except (SynapseError, *MALFORMED, AssertionError):
        return None
    return event


def _parents_first(events: Mapping[str, EventBase]) -> Sequence[str]:
    graph = {i: [a for a in e.auth_event_ids() if a in events] for i, e in events.items()}
    return list(sorted_topologically(events, graph))
