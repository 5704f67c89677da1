"""Clients that sync all along, and believe what they are told."""

from __future__ import annotations

import threading
from types import TracebackType

import requests

from tests.harness.client import Client, JsonDict
from tests.harness.waiting import wait_for

_SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
_POLL_MS = 60_000


class SyncedRoom:
    """What a client makes of one room by what `/sync` tells it, as the specification says."""

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.state: dict[tuple[str, str], str] = {}
        self.timeline: list[str] = []
        self.limited = False
        self.device_lists: set[str] = set()
        self.unread = 0

    def apply(self, answer: JsonDict) -> None:
        """Takes in an answer: the state first, then the timeline."""
        self.device_lists |= {*answer.get("device_lists", {}).get("changed", ())}
        room = answer.get("rooms", {}).get("join", {}).get(self.room_id)
        if room is None:
            return
        self.limited |= room["timeline"]["limited"]
        self.unread = room["unread_notifications"].get("notification_count", self.unread)
        for event in (*room["state"]["events"], *room["timeline"]["events"]):
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = event["event_id"]
        self.timeline += [event["event_id"] for event in room["timeline"]["events"]]


class Waiting:
    """A client that hangs in `/sync` until there is news, in a thread, as a context manager.

    Whatever wakes it must come from the server: it asks again only after a minute.
    """

    def __init__(self, user: Client, room_id: str, since: str) -> None:
        self.room = SyncedRoom(room_id)
        # A session of its own: it is used from another thread.
        self._user = Client(user.url, user.user_id, user.access_token)
        self._since = since
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(
        self,
        type: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()

    def wait_for(self, event_ids: set[str], timeout: float = 60.0) -> None:
        """Waits until it has been told of all these events."""
        wait_for(
            lambda: event_ids <= {*self.room.timeline},
            timeout,
            what=f"a waiting client to be told of {event_ids - {*self.room.timeline}}",
        )

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                answer = self._user.sync(self._since, _POLL_MS)
            except requests.RequestException:
                return
            self._since = answer["next_batch"]
            self.room.apply(answer)


def sliding_sync(user: Client, room_id: str, pos: str | None = None) -> tuple[str, JsonDict]:
    """Syncs once with simplified sliding sync, for one room, whole.

    Args:
        user: The user.
        room_id: The room.
        pos: The position that the sync before returned.

    Returns:
        The new position, and the room as it is told of; nothing if there is no news.
    """
    wanted = {"timeline_limit": 100, "required_state": [["*", "*"]]}
    body: JsonDict = {"conn_id": "test", "room_subscriptions": {room_id: wanted}}
    params = {"timeout": 0} if pos is None else {"timeout": 0, "pos": pos}
    answer = user.call("POST", _SLIDING, body, params)
    room: JsonDict = answer["rooms"].get(room_id, {})
    return answer["pos"], room
