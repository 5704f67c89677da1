"""A user of a server, over the client-server API and the admin APIs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import requests

JsonDict = dict[str, Any]

REPAIR_API = "/_synapse/rejection_repair/v1"


class MatrixError(Exception):
    """An answer other than success, with Synapse's `errcode` and `error` if it has them."""

    def __init__(self, response: requests.Response) -> None:
        self.response = response
        self.status = response.status_code
        try:
            body = response.json()
        except ValueError:
            body = {}
        self.errcode: str | None = body.get("errcode")
        self.error: str | None = body.get("error")
        super().__init__(
            f"{response.request.method} {response.request.path_url}: {self.status} "
            f"{response.text[:500]}"
        )


def quoted(*parts: str) -> str:
    """Joins parts to a path, each of them quoted whole: ids have odd characters."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


class Client:
    """A logged in user. Methods raise `MatrixError` where the server refuses."""

    timeout = 120.0
    """How long an answer is waited for, in seconds."""

    def __init__(self, url: str, user_id: str, access_token: str) -> None:
        self.url = url
        self.user_id = user_id
        self.access_token = access_token
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {access_token}"

    # Raw calls.

    def response(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> requests.Response:
        """Makes a call, and returns whatever is answered.

        Args:
            method: GET, POST, …
            path: The path, quoted.
            json: A body, to be sent as JSON.
            params: The query.
            data: A body, to be sent as it is.
            headers: Headers; `{"Authorization": None}` to be nobody.
        """
        return self._session.request(
            method,
            self.url + path,
            json=json,
            params=params,
            data=data,
            headers=headers,
            timeout=self.timeout,
        )

    def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """Makes a call, and returns the JSON that is answered. Raises `MatrixError`."""
        response = self.response(method, path, json=json, params=params)
        if not response.ok:
            raise MatrixError(response)
        return response.json()

    def repair_api(
        self,
        method: str,
        path: str,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the module's API, with a path below its version. Raises `MatrixError`."""
        return self.call(method, REPAIR_API + path, json, params)

    def admin(self, method: str, path: str, **json: Any) -> Any:
        """Calls Synapse's admin API, with a path below `/_synapse/admin`. Raises `MatrixError`."""
        body = json if json or method in ("POST", "PUT") else None
        return self.call(method, "/_synapse/admin" + path, body)

    def _client_api(
        self, method: str, *parts: str, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        return self.call(method, "/_matrix/client/v3" + quoted(*parts), json, params)

    def _room(self, method: str, room_id: str, *parts: str, json: Any = None, **params: Any) -> Any:
        given = {name: value for name, value in params.items() if value is not None}
        return self._client_api(method, "rooms", room_id, *parts, json=json, params=given)

    # Rooms and members.

    def create_room(self, room_version: str, **options: Any) -> str:
        """Creates a public room, unless `options` (the body of the call) says otherwise."""
        body = {"preset": "public_chat", "room_version": room_version, **options}
        room_id: str = self._client_api("POST", "createRoom", json=body)["room_id"]
        return room_id

    def join(self, room_id: str, via: str | None = None) -> None:
        """Joins a room, through the server `via` if our own is not in it yet."""
        # Both names of one parameter: older servers know the first alone.
        params = {"server_name": via, "via": via} if via else None
        self._client_api("POST", "join", room_id, json={}, params=params)

    def invite(self, room_id: str, user_id: str) -> None:
        self._room("POST", room_id, "invite", json={"user_id": user_id})

    def leave(self, room_id: str) -> None:
        self._room("POST", room_id, "leave", json={})

    def kick(self, room_id: str, user_id: str, reason: str = "") -> None:
        self._room("POST", room_id, "kick", json={"user_id": user_id, "reason": reason})

    def ban(self, room_id: str, user_id: str, reason: str = "") -> None:
        self._room("POST", room_id, "ban", json={"user_id": user_id, "reason": reason})

    def members(self, room_id: str, membership: str | None = "join") -> dict[str, str]:
        """Returns users and their membership, by default of those who are in the room."""
        chunk = self._room("GET", room_id, "members", membership=membership)["chunk"]
        return {event["state_key"]: event["content"]["membership"] for event in chunk}

    # Sending. All return the event's id.

    def send_event(self, room_id: str, type: str, content: JsonDict) -> str:
        event_id: str = self._room("PUT", room_id, "send", type, uuid.uuid4().hex, json=content)[
            "event_id"
        ]
        return event_id

    def upload(
        self, content: bytes, content_type: str = "application/octet-stream", name: str = "file"
    ) -> str:
        """Uploads a medium; returns its URI."""
        response = self.response(
            "POST",
            "/_matrix/media/v3/upload",
            params={"filename": name},
            data=content,
            headers={"Content-Type": content_type},
        )
        if not response.ok:
            raise MatrixError(response)
        uri: str = response.json()["content_uri"]
        return uri

    def send_message(self, room_id: str, body: str, **content: Any) -> str:
        return self.send_event(
            room_id, "m.room.message", {"msgtype": "m.text", "body": body, **content}
        )

    def send_state(self, room_id: str, type: str, content: JsonDict, state_key: str = "") -> str:
        event_id: str = self._room("PUT", room_id, "state", type, state_key, json=content)[
            "event_id"
        ]
        return event_id

    def redact(self, room_id: str, event_id: str, reason: str = "") -> str:
        redaction: str = self._room(
            "PUT", room_id, "redact", event_id, uuid.uuid4().hex, json={"reason": reason}
        )["event_id"]
        return redaction

    def send_in_thread(self, room_id: str, root: str, body: str) -> str:
        relation = {"rel_type": "m.thread", "event_id": root}
        return self.send_message(room_id, body, **{"m.relates_to": relation})

    def edit(self, room_id: str, event_id: str, body: str) -> str:
        return self.send_message(
            room_id,
            "* " + body,
            **{
                "m.new_content": {"msgtype": "m.text", "body": body},
                "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
            },
        )

    def react(self, room_id: str, event_id: str, key: str) -> str:
        relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
        return self.send_event(room_id, "m.reaction", {"m.relates_to": relation})

    # Reading.

    def state(self, room_id: str) -> dict[tuple[str, str], JsonDict]:
        """Returns the current state, whole events, by type and state key."""
        events = self._room("GET", room_id, "state")
        return {(event["type"], event["state_key"]): event for event in events}

    def get_state(self, room_id: str, type: str, state_key: str = "") -> JsonDict:
        """Returns the content of one event of the current state."""
        content: JsonDict = self._room("GET", room_id, "state", type, state_key)
        return content

    def event(self, room_id: str, event_id: str) -> JsonDict:
        event: JsonDict = self._room("GET", room_id, "event", event_id)
        return event

    def context(self, room_id: str, event_id: str, limit: int = 10) -> JsonDict:
        context: JsonDict = self._room("GET", room_id, "context", event_id, limit=limit)
        return context

    def relations(self, room_id: str, event_id: str, *filters: str) -> list[JsonDict]:
        """Returns the events that relate to one, newest first; `filters`: relation, then type."""
        answer = self.call(
            "GET", "/_matrix/client/v1" + quoted("rooms", room_id, "relations", event_id, *filters)
        )
        chunk: list[JsonDict] = answer["chunk"]
        return chunk

    def messages(self, room_id: str, dir: str = "b", limit: int = 100) -> list[JsonDict]:
        """Returns the room's whole history, page after page: newest first, or oldest with `f`."""
        return list(self._pages(room_id, dir, limit))

    def _pages(self, room_id: str, dir: str, limit: int) -> Iterator[JsonDict]:
        token = None
        while True:
            page = self._room(
                "GET", room_id, "messages", **{"dir": dir, "limit": limit, "from": token}
            )
            yield from page["chunk"]
            token = page.get("end")
            if not token:
                return

    def search(self, words: str, rooms: Sequence[str] | None = None) -> list[str]:
        """Returns the ids of the messages that contain the words."""
        query: JsonDict = {"search_term": words}
        if rooms is not None:
            query["filter"] = {"rooms": list(rooms)}
        answer = self._client_api(
            "POST", "search", json={"search_categories": {"room_events": query}}
        )
        results = answer["search_categories"]["room_events"]["results"]
        return [result["result"]["event_id"] for result in results]

    def sync(
        self, since: str | None = None, timeout_ms: int = 0, filter: JsonDict | None = None
    ) -> JsonDict:
        """Syncs once.

        Args:
            since: The `next_batch` of the sync before.
            timeout_ms: How long to wait for news.
            filter: A whole filter; None for one that only raises the limit of the timeline, since
                Synapse's own of 10 counts rejected events in, which it then leaves out.

        Returns:
            The answer.
        """
        chosen = {"room": {"timeline": {"limit": 1000}}} if filter is None else filter
        params: JsonDict = {"timeout": timeout_ms, "filter": json.dumps(chosen)}
        if since is not None:
            params["since"] = since
        answer: JsonDict = self._client_api("GET", "sync", params=params)
        return answer
