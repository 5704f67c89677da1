"""Checks 2 and 3 on receipt of a PDU: that an event is what its sender's server signed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from signedjson.key import get_verify_key
from signedjson.sign import verify_signed_json
from signedjson.types import VerifyKey
from synapse.api.constants import EventContentFields, EventTypes, Membership
from synapse.api.errors import SynapseError
from synapse.api.room_versions import EventFormatVersions
from synapse.crypto.event_signing import check_event_content_hash
from synapse.events import EventBase
from synapse.events.utils import prune_event
from synapse.federation.federation_base import InvalidEventSignatureError, _check_sigs_on_pdu
from synapse.server import HomeServer
from synapse.types import get_domain_from_id

from synapse_rejection_repair.domain.model import Check, Outcome, Verdict
from synapse_rejection_repair.domain.remembering import forget_oldest
from synapse_rejection_repair.ports import Clock

_Key = tuple[str, str]
_REMEMBERED = 20_000
"""How many events that have passed are remembered, by their digests."""


class IntegrityCheck:
    """Verifies hashes and signatures of stored events, with the keys that Synapse has cached.

    Args:
        hs: the homeserver.
    """

    def __init__(self, hs: HomeServer) -> None:
        # Synapse's caching decorators hide the method's type.
        self._store: Any = hs.get_datastores().main
        self._keyring = hs.get_keyring()
        self._keys: dict[_Key, tuple[VerifyKey, int] | None] = {}
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        own = get_verify_key(hs.signing_key)
        self._keys[hs.hostname, f"{own.alg}:{own.version}"] = (own, 2**63)

    async def check(self, events: Mapping[bytes, EventBase], clock: Clock) -> dict[str, Verdict]:
        """The verdicts on those of the events that fail, by event id.

        Args:
            events: the events, by a digest of what is stored of each. What has passed is
                remembered by it, since a repair plans what its dry run has just planned.
            clock: lets the server breathe.
        """
        wanted = {digest: e for digest, e in events.items() if digest not in self._passed}
        await self._fetch_keys(wanted.values())
        failed = {}
        for digest, event in wanted.items():
            verdict = _hash_verdict(event) or await self._signature_verdict(event)
            if verdict is None:
                self._passed[digest] = None
            else:
                failed[event.event_id] = verdict
            await clock.breathe()
        forget_oldest(self._passed, _REMEMBERED)
        return failed

    async def _fetch_keys(self, events: Iterable[EventBase]) -> None:
        missing = {
            (server, key_id)
            for event in events
            for server in signers(event)
            for key_id in _key_ids(event, server)
            if (server, key_id) not in self._keys
        }
        if not missing:
            return
        found = await self._store.get_server_keys_json(missing)
        for key in missing:
            result = found.get(key)
            if result is not None:
                self._keys[key] = (result.verify_key, result.valid_until_ts)

    async def _signature_verdict(self, event: EventBase) -> Verdict | None:
        if all(self._signed(event, server) for server in signers(event)):
            return None
        # The cached keys do not settle it: ask Synapse, which may ask the key's server.
        try:
            await _check_sigs_on_pdu(self._keyring, event.room_version, event)
        except InvalidEventSignatureError as e:
            have_keys = all(
                any((server, key_id) in self._keys for key_id in _key_ids(event, server))
                or not _key_ids(event, server)
                for server in signers(event)
            )
            outcome = Outcome.REJECT if have_keys else Outcome.UNKNOWN
            return Verdict(outcome, Check.SIGNATURE, str(e))
        return None

    def _signed(self, event: EventBase, server: str) -> bool:
        enforce = event.room_version.enforce_key_validity
        for key_id in _key_ids(event, server):
            known = self._keys.get((server, key_id))
            if known is None or (enforce and known[1] < event.origin_server_ts):
                continue
            try:
                verify_signed_json(prune_event(event).get_pdu_json(), server, known[0])
            except Exception:
                continue
            return True
        return False


def signers(event: EventBase) -> list[str]:
    """The servers whose signature an event needs.

    Mirrors `federation_base._check_sigs_on_pdu` (read in Synapse 1.151.0 and 1.163.2).
    """
    servers = []
    member = event.type == EventTypes.Member
    if not (
        member and event.membership == Membership.INVITE and "third_party_invite" in event.content
    ):
        servers.append(get_domain_from_id(event.sender))
    if event.room_version.event_format == EventFormatVersions.ROOM_V1_V2:
        servers.append(get_domain_from_id(event.event_id))
    authorising = event.content.get(EventContentFields.AUTHORISING_USER)
    if (
        event.room_version.restricted_join_rule
        and member
        and event.membership == Membership.JOIN
        and isinstance(authorising, str)
    ):
        servers.append(get_domain_from_id(authorising))
    return list(dict.fromkeys(servers))


def _key_ids(event: EventBase, server: str) -> list[str]:
    if server not in event.signatures:
        return []
    return [key_id for key_id in event.signatures[server] if key_id.startswith("ed25519:")]


def _hash_verdict(event: EventBase) -> Verdict | None:
    try:
        if check_event_content_hash(event) or _is_redacted_copy(event):
            return None
    except SynapseError as e:
        return Verdict(Outcome.REJECT, Check.HASH, e.msg)
    return Verdict(
        Outcome.REJECT, Check.HASH, "The event's content is not what its content hash says"
    )


def _is_redacted_copy(event: EventBase) -> bool:
    # What arrives with a wrong content hash is stored redacted, and a redacted event's
    # content goes away in time: both are as they should be.
    pruned = prune_event(event)
    return bool(pruned.content == event.content)
