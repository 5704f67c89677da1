"""Whose keys count when the signatures of old events are checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key
from signedjson.types import SigningKey
from synapse.api.room_versions import RoomVersions
from synapse.crypto.event_signing import add_hashes_and_signatures
from synapse.events import make_event_from_dict
from synapse.server import HomeServer

from synapse_rejection_repair.adapter.admission import Admission, SourceKeys
from synapse_rejection_repair.domain.imports import Skip
from synapse_rejection_repair.domain.source import Position, SourceEvent
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_imports import Source

ROOM, OLD = "!r:old.example.org", "old.example.org"
RIGHT, WRONG = generate_signing_key("same"), generate_signing_key("same")
KEY = (OLD, "ed25519:same")


def event(signed_with: SigningKey) -> SourceEvent:
    pdu: dict[str, Any] = {
        "type": "m.room.message",
        "room_id": ROOM,
        "sender": f"@u:{OLD}",
        "content": {"body": "Of old"},
        "depth": 1,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
    }
    add_hashes_and_signatures(RoomVersions.V11, pdu, OLD, signed_with)
    event_id = make_event_from_dict(pdu, RoomVersions.V11).event_id
    return SourceEvent(event_id, Position(1, 1), pdu)


class SameThread:
    """A clock that runs what blocks where it is called."""

    async def in_thread(self, func: Callable[..., Any], *args: Any) -> Any:
        return func(*args)


class Keys:
    """A source that has cached one key."""

    def __init__(self, key: SigningKey) -> None:
        self._key = encode_verify_key_base64(get_verify_key(key))

    async def verify_keys(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        return {KEY: self._key} if KEY in wanted else {}


class World:
    """A server, with what it has cached of others' keys."""

    def __init__(self) -> None:
        self.cached: dict[tuple[str, str], Any] = {}
        store = SimpleNamespace(
            database_engine=object(), get_server_keys_json=self._get_server_keys_json
        )
        hs = SimpleNamespace(
            hostname="new.example.org",
            signing_key=generate_signing_key("own"),
            get_datastores=lambda: SimpleNamespace(main=store),
        )
        self.admission = Admission(cast(HomeServer, hs), cast(Clock, SameThread()))

    async def _get_server_keys_json(self, wanted: Collection[tuple[str, str]]) -> dict[Any, Any]:
        return {key: self.cached.get(key) for key in wanted}

    def cache(self, key: SigningKey) -> None:
        self.cached[KEY] = SimpleNamespace(verify_key=get_verify_key(key))

    def why_not(self, keys: SourceKeys) -> Skip | None:
        """Why an event that is signed with the right key does not arrive."""
        check = self.admission.check(ROOM, "11", [event(RIGHT)], keys)
        admitted, skipped = asyncio.run(check)
        assert len(admitted) + len(skipped) == 1
        return skipped[0].reason if skipped else None


def keys_of(key: SigningKey) -> SourceKeys:
    return SourceKeys(cast(Source, Keys(key)))


@pytest.fixture
def world() -> World:
    return World()


def test_a_sources_keys_count_for_no_other_source(world: World) -> None:
    assert world.why_not(keys_of(WRONG)) is Skip.BAD_SIGNATURE
    assert world.why_not(keys_of(RIGHT)) is None
    assert world.why_not(keys_of(WRONG)) is Skip.BAD_SIGNATURE


def test_this_servers_keys_come_first(world: World) -> None:
    keys = keys_of(WRONG)
    assert world.why_not(keys) is Skip.BAD_SIGNATURE
    # It is cached here while the import lasts.
    world.cache(RIGHT)
    assert world.why_not(keys) is None
    assert world.why_not(keys_of(WRONG)) is None
