"""Whether an event out of an old database is what its sender's server signed."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import attr
from signedjson.key import decode_verify_key_bytes, get_verify_key
from signedjson.sign import verify_signed_json
from signedjson.types import VerifyKey
from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from synapse.crypto.event_signing import check_event_content_hash
from synapse.event_auth import validate_event_for_room_version
from synapse.events import EventBase
from synapse.events.utils import prune_event
from synapse.federation.federation_base import event_from_pdu_json
from synapse.server import HomeServer
from synapse.storage.engines import PostgresEngine
from unpaddedbase64 import decode_base64

from synapse_rejection_repair.adapter.integrity import signers
from synapse_rejection_repair.adapter.storable import unstorable
from synapse_rejection_repair.adapter.stored_events import MALFORMED, require_references
from synapse_rejection_repair.domain.imports import Skip, Skipped
from synapse_rejection_repair.domain.source import SourceEvent
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import Source

_Keys = dict[tuple[str, str], VerifyKey]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Admitted:
    """An event that may arrive.

    Attributes:
        source: the event as the source has it.
        event: the event as if it had come over federation.
        pruned: its content is not what was hashed, so it was redacted.
    """

    source: SourceEvent
    event: EventBase
    pruned: bool


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SourceKeys:
    """The signing keys that an old database has cached, as long as one import or dry run lasts.

    They count for its own events alone, and only where this server has cached no such key: who
    wrote the database may have made them up.

    Attributes:
        source: the old database.
        known: those that have been asked for, and are there.
    """

    source: Source
    known: _Keys = attr.Factory(dict)

    async def fetch(self, wanted: Sequence[tuple[str, str]]) -> None:
        """Reads some keys, by server and key id, unless they are known."""
        missing = [key for key in wanted if key not in self.known]
        if not missing:
            return
        for key, text in (await self.source.verify_keys(missing)).items():
            try:
                self.known[key] = decode_verify_key_bytes(key[1], decode_base64(text))
            except Exception:
                continue


class Admission:
    """Verifies ids, hashes, limits and, if told so, signatures: all that needs no other event.

    Args:
        hs: the homeserver.
        clock: runs what takes long in threads.
    """

    def __init__(self, hs: HomeServer, clock: Clock) -> None:
        # Synapse's caching decorators hide the method's type.
        self._store: Any = hs.get_datastores().main
        self._clock = clock
        self._postgres = isinstance(self._store.database_engine, PostgresEngine)
        own = get_verify_key(hs.signing_key)
        self._keys: _Keys = {(hs.hostname, f"{own.alg}:{own.version}"): own}

    async def check(
        self,
        room_id: str,
        room_version: str,
        events: Sequence[SourceEvent],
        keys_from: SourceKeys | None = None,
    ) -> tuple[list[Admitted], list[Skipped]]:
        """Those of the events that may arrive, in the same order, and the others.

        Args:
            room_id: the room that they have to be of.
            room_version: its version's identifier.
            events: the events.
            keys_from: check signatures too, with the keys that we have cached or, failing
                that, these.
        """
        version = KNOWN_ROOM_VERSIONS[room_version]
        admitted, skipped = await self._clock.in_thread(
            _admit_all, room_id, version, events, self._postgres
        )
        if keys_from is None:
            return admitted, skipped
        await self._fetch_keys([a.event for a in admitted], keys_from)
        keys = ChainMap(self._keys, keys_from.known)
        failed = await self._clock.in_thread(_check_signatures, admitted, keys)
        bad = {s.event_id for s in failed}
        return [a for a in admitted if a.event.event_id not in bad], [*skipped, *failed]

    async def _fetch_keys(self, events: Sequence[EventBase], of_source: SourceKeys) -> None:
        wanted = {
            (server, key_id)
            for event in events
            for server in signers(event)
            for key_id in _key_ids(event, server)
            if (server, key_id) not in self._keys
        }
        if not wanted:
            return
        for key, result in (await self._store.get_server_keys_json(wanted)).items():
            if result is not None:
                self._keys[key] = result.verify_key
        await of_source.fetch([key for key in wanted if key not in self._keys])


def _admit_all(
    room_id: str, version: RoomVersion, events: Sequence[SourceEvent], postgres: bool
) -> tuple[list[Admitted], list[Skipped]]:
    admitted, skipped = [], []
    for event in events:
        found = _admit(room_id, version, event, postgres)
        if isinstance(found, Admitted):
            admitted.append(found)
        else:
            skipped.append(found)
    return admitted, skipped


def _admit(
    room_id: str, version: RoomVersion, source: SourceEvent, postgres: bool
) -> Admitted | Skipped:
    if source.pdu is None:
        return Skipped(source.event_id, Skip.MISSING_JSON)
    try:
        # It takes away what only the old server may have said of the event (`unsigned`).
        event = event_from_pdu_json(dict(source.pdu), version)
        require_references(event)
        if event.event_id != source.event_id:
            return Skipped(source.event_id, Skip.BAD_EVENT_ID)
        if event.room_id != room_id:
            return Skipped(source.event_id, Skip.OTHER_ROOM)
        pruned = False
        if not check_event_content_hash(event):
            redacted = prune_event(event)
            # What was redacted long ago is stored without its content: nothing is lost then.
            pruned = bool(redacted.content != event.content)
            event = redacted
        if source.erased and not event.is_state():
            # As the source would have given it to us: `filter_events_for_server` and
            # `filter_and_transform_events_for_client`, read in Synapse 1.151.0 and 1.163.2.
            event = prune_event(event)
        validate_event_for_room_version(event)
        why = unstorable(event, postgres=postgres)
        if why is not None:
            return Skipped(source.event_id, Skip.MALFORMED, why)
    except SynapseError as e:
        return Skipped(source.event_id, Skip.MALFORMED, e.msg)
    except (*MALFORMED, AssertionError):
        return Skipped(source.event_id, Skip.MALFORMED)
    if source.soft_failed:
        event.internal_metadata.soft_failed = True
    return Admitted(source, event, pruned)


def _check_signatures(admitted: Sequence[Admitted], keys: Mapping[Any, VerifyKey]) -> list[Skipped]:
    failed = []
    for one in admitted:
        pdu = None
        for server in signers(one.event):
            ids = _key_ids(one.event, server)
            known = [keys[server, k] for k in ids if (server, k) in keys]
            if ids and not known:
                failed.append(Skipped(one.event.event_id, Skip.UNKNOWN_KEY))
                break
            pdu = pdu or prune_event(one.event).get_pdu_json()
            if not any(_signed(pdu, server, key) for key in known):
                failed.append(Skipped(one.event.event_id, Skip.BAD_SIGNATURE))
                break
    return failed


def _key_ids(event: EventBase, server: str) -> list[str]:
    if server not in event.signatures:
        return []
    return [key_id for key_id in event.signatures[server] if key_id.startswith("ed25519:")]


def _signed(pdu: Any, server: str, key: VerifyKey) -> bool:
    try:
        verify_signed_json(dict(pdu), server, key)
    except Exception:
        return False
    return True
