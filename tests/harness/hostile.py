"""Sends one server what another would never send, signed with the other's real key."""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import requests
from canonicaljson import encode_canonical_json
from signedjson.key import read_signing_keys
from signedjson.sign import sign_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, EventFormatVersions
from synapse.crypto.event_signing import add_hashes_and_signatures
from synapse.event_auth import auth_types_for_event
from synapse.events import make_event_from_dict
from urllib3.exceptions import InsecureRequestWarning

from tests.harness.client import quoted
from tests.harness.federation import Room
from tests.harness.server import Server
from tests.harness.waiting import wait_for

JsonDict = dict[str, Any]

# The specification's limit for one transaction.
_PDUS = 50


class HostilePeer:
    """Server A, turned bad, in one room. A's own Synapse knows nothing of what is sent here."""

    def __init__(self, server: Server, room_id: str) -> None:
        """Takes A's key and A's view of the room.

        Args:
            server: Server A, which must be in the room; its key, and its database.
            room_id: The room.
        """
        self.server = server
        self.room_id = room_id
        version = server.database.value("SELECT room_version FROM rooms WHERE room_id = ?", room_id)
        self.version = KNOWN_ROOM_VERSIONS[version]
        with Path(server.config["signing_key_path"]).open() as file:
            (self._key,) = read_signing_keys(file)

    def forge(
        self,
        type: str,
        sender: str,
        content: JsonDict,
        *,
        state_key: str | None = None,
        prev_events: Sequence[str] | None = None,
        auth_events: Sequence[str] | None = None,
        depth: int | None = None,
        **fields: Any,
    ) -> tuple[JsonDict, str]:
        """Makes an event with a right hash and A's right signature.

        Args:
            type: The event's type.
            sender: Whom it claims to be from.
            content: Its content.
            state_key: Its state key; None for no state event.
            prev_events: What it follows; None for A's forward extremities.
            auth_events: What it cites; None for what the rules ask for, out of A's current state.
            depth: Its depth; None for one more than its prev events have on A.
            fields: Other fields, such as `redacts` or `origin_server_ts`.

        Returns:
            The event, which may be damaged before it is sent, and the id that it has as it is.
        """
        prev_events = self.extremities() if prev_events is None else prev_events
        event: JsonDict = {
            "room_id": self.room_id,
            "type": type,
            "sender": sender,
            "content": content,
            "origin_server_ts": int(time.time() * 1000),
            "prev_events": list(prev_events),
            "auth_events": [],
            "depth": self._depth(prev_events) if depth is None else depth,
            **fields,
        }
        if state_key is not None:
            event["state_key"] = state_key
        event["auth_events"] = self._auth_events(event) if auth_events is None else [*auth_events]
        if self.version.event_format == EventFormatVersions.ROOM_V1_V2:
            event["event_id"] = self._new_id()
            # Nobody checks the hashes in these pairs.
            for field in ("prev_events", "auth_events"):
                event[field] = [[event_id, {"sha256": ""}] for event_id in event[field]]
        self.sign(event)
        return event, self.event_id(event)

    def sign(self, event: JsonDict) -> None:
        """Gives an event the hash and the signature that fit what it says now."""
        event.pop("hashes", None)
        event.pop("signatures", None)
        add_hashes_and_signatures(self.version, event, self.server.name, self._key)

    def event_id(self, event: JsonDict) -> str:
        """Returns the id that other servers compute for an event."""
        return make_event_from_dict(event, self.version).event_id

    def send(self, to: Server, *events: JsonDict) -> dict[str, JsonDict]:
        """Sends events to a server as one that federates would.

        Args:
            to: The server.
            events: The events.

        Returns:
            What the server says of each of them, by the id that it computed.
        """
        results: dict[str, JsonDict] = {}
        for start in range(0, len(events), _PDUS):
            body = {
                "origin": self.server.name,
                "origin_server_ts": int(time.time() * 1000),
                "pdus": list(events[start : start + _PDUS]),
            }
            results.update(self._transaction(to, body))
        return results

    def _transaction(self, to: Server, body: JsonDict) -> dict[str, JsonDict]:
        path = "/_matrix/federation/v1" + quoted("send", uuid.uuid4().hex)

        def answer() -> JsonDict | None:
            try:
                return self.request(to, "PUT", path, body)
            except requests.HTTPError as e:
                # It takes one transaction at a time from each server, and A sends its own.
                if e.response.status_code != 429:
                    raise
                return None

        pdus: dict[str, JsonDict] = (wait_for(answer, what="a transaction's turn") or {})["pdus"]
        return pdus

    def request(self, to: Server, method: str, path: str, body: JsonDict | None = None) -> JsonDict:
        """Makes a federation request in A's name, and returns the JSON that is answered."""
        signed: JsonDict = {
            "method": method,
            "uri": path,
            "origin": self.server.name,
            "destination": to.name,
        }
        if body is not None:
            signed["content"] = body
        signature = sign_json(signed, self.server.name, self._key)["signatures"][self.server.name]
        ((key_id, value),) = signature.items()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)
            response = requests.request(
                method,
                f"https://{to.name}{path}",
                data=None if body is None else encode_canonical_json(body),
                headers={
                    "Authorization": f'X-Matrix origin="{self.server.name}",'
                    f'destination="{to.name}",key="{key_id}",sig="{value}"',
                    "Content-Type": "application/json",
                },
                # The servers' certificates are their own.
                verify=False,
                timeout=120,
            )
        response.raise_for_status()
        return cast(JsonDict, response.json())

    def states_given(self, of: Server, event_ids: Iterable[str]) -> dict[str, set[str]]:
        """Returns the state before each of some events, as another server gives it to A."""
        path = "/_matrix/federation/v1" + quoted("state_ids", self.room_id) + "?event_id="
        return {
            event_id: {*self.request(of, "GET", path + quote(event_id, safe=""))["pdu_ids"]}
            for event_id in event_ids
        }

    def extremities(self) -> list[str]:
        """Returns A's forward extremities of the room."""
        sql = "SELECT event_id FROM event_forward_extremities WHERE room_id = ?"
        return [event_id for (event_id,) in self.server.database.query(sql, self.room_id)]

    def current_state(self) -> dict[tuple[str, str], str]:
        """Returns A's current state of the room: event ids by type and state key."""
        sql = "SELECT type, state_key, event_id FROM current_state_events WHERE room_id = ?"
        rows = self.server.database.query(sql, self.room_id)
        return {(type, state_key): event_id for type, state_key, event_id in rows}

    def _auth_events(self, event: JsonDict) -> list[str]:
        unsigned = {**event, "hashes": {}, "signatures": {}}
        if self.version.event_format == EventFormatVersions.ROOM_V1_V2:
            unsigned |= {"event_id": self._new_id(), "prev_events": []}
        drafted = make_event_from_dict(unsigned, self.version)
        wanted = set(auth_types_for_event(self.version, drafted))
        if self.version.msc4291_room_ids_as_hashes:
            # The room's id is the create event's hash: nobody cites it.
            wanted.discard(("m.room.create", ""))
        state = self.current_state()
        return [state[key] for key in sorted(wanted) if key in state]

    def _new_id(self) -> str:
        return f"${uuid.uuid4().hex}:{self.server.name}"

    def _depth(self, event_ids: Sequence[str]) -> int:
        marks = ",".join("?" for _ in event_ids)
        sql = f"SELECT max(depth) FROM events WHERE event_id IN ({marks})"
        return int(self.server.database.value(sql, *event_ids) or 0) + 1


def grab(room: Room) -> str:
    """Sends B what it rejects for good reason: a topic by somebody who is not in the room."""
    peer = HostilePeer(room.a, room.room_id)
    mallory = f"@mallory:{room.a.name}"
    event, event_id = peer.forge("m.room.topic", mallory, {"topic": "Mine"}, state_key="")
    peer.send(room.b, event)
    room.b.wait_for_event(event_id)
    assert event_id in room.b.rejected(room.room_id)
    return event_id
