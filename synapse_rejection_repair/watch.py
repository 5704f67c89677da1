"""The watch: notes rejections as they happen, and raises an alert where a cascade begins."""

from __future__ import annotations

from synapse_rejection_repair.diagnosis import Diagnostician, Root
from synapse_rejection_repair.domain.healing import Healed
from synapse_rejection_repair.domain.listing import Page, RejectionFilter
from synapse_rejection_repair.domain.watch import Alert, cascades_begun
from synapse_rejection_repair.healing import Healer
from synapse_rejection_repair.notice import notice
from synapse_rejection_repair.ports import Clock, ListingReader
from synapse_rejection_repair.ports_watch import AlertChannel, RejectionQueue, WatchStore

_LOOK_BACK_MS = 3_600_000
"""How old the rejections are that a process looks at again when it starts, in milliseconds.

One that was killed may have recorded them and not have come to the alert.
"""

_DIAGNOSED = 20_000
"""In a room with more rejected events than this a diagnosis would take too long for an alert."""

_AGAIN_MS = 30_000
"""How long there is at most one message about a room, in milliseconds.

Otherwise whoever forges many roots would write to the admins with each.
"""

_MOST_HEALED = 5
"""How many roots in a room may ask to be repaired at once: more are nobody's mere error."""

_ONE = Page(start=0, limit=1, order_by="event_id")


class Watch:
    """Records what one process notices, and raises alerts.

    Args:
        queue: what this process was told of.
        store: where it is written.
        clock: tells the time.
        after: how many events behind a root make an alert.
    """

    def __init__(self, queue: RejectionQueue, store: WatchStore, clock: Clock, after: int) -> None:
        self._queue = queue
        self._store = store
        self._clock = clock
        self._after = after

    async def start(self) -> None:
        """Takes up what a process that died may have left."""
        since = self._clock.now_ms() - _LOOK_BACK_MS
        for room_id in await self._store.rooms_since(since):
            await self._decide(room_id)

    async def poll(self) -> None:
        """Writes what was noticed since the last time, and raises the alerts that follow."""
        rejections = self._queue.take()
        if not rejections:
            return
        try:
            await self._store.record(rejections)
        except Exception:
            self._queue.put_back(rejections)
            raise
        # Only when it is committed: of two processes that each noticed a part, the later one
        # sees it all.
        for room_id in dict.fromkeys(r.room_id for r in rejections):
            await self._decide(room_id)
            # Not before: the cause of what there is an alert about is kept.
            await self._store.forget_oldest(room_id)

    async def _decide(self, room_id: str) -> None:
        begun = cascades_begun(await self._store.seen(room_id), self._after)
        if begun:
            await self._store.raise_alerts(room_id, begun, self._clock.now_ms())


class Announcer:
    """Tells admins of alerts, whichever process raised them. One process of a server does.

    An alert counts as announced only when all is done. So if the process is killed, the next
    one tells of it again: rather twice than not at all.

    Args:
        store: the alerts.
        channel: the log, the metrics and the room.
        listings: what is rejected.
        diagnostician: looks at the rooms that alerts are about.
        clock: tells the time.
        api: the URL of the endpoints.
        healer: repairs without an admin; `None` where that is not configured.
    """

    def __init__(
        self,
        store: WatchStore,
        channel: AlertChannel,
        listings: ListingReader,
        diagnostician: Diagnostician,
        clock: Clock,
        api: str,
        healer: Healer | None = None,
    ) -> None:
        self._store = store
        self._channel = channel
        self._listings = listings
        self._diagnostician = diagnostician
        self._clock = clock
        self._api = api
        self._healer = healer
        self._healed: dict[str, Healed] = {}
        self._logged: set[str] = set()
        self._not_before: dict[str, int] = {}

    async def poll(self) -> None:
        """Tells of the alerts that nobody was told of yet."""
        alerts = await self._store.unannounced()
        rooms: dict[str, list[Alert]] = {}
        for alert in alerts:
            # Of all at once, before anything that takes its time.
            if alert.event_id not in self._logged:
                self._logged.add(alert.event_id)
                self._channel.log(alert)
            rooms.setdefault(alert.room_id, []).append(alert)
        for room_id, about in rooms.items():
            if len(about) > _MOST_HEALED:
                self._wait(about)
            known = [alert for alert in about if await self._outcome_known(alert)]
            if known == about and await self._told(room_id, about):
                done = [alert.event_id for alert in about]
                await self._store.announced(done, self._clock.now_ms())
                self._logged.difference_update(done)
                for event_id in done:
                    self._healed.pop(event_id, None)

    async def _outcome_known(self, alert: Alert) -> bool:
        if self._healer is None or alert.event_id in self._healed:
            return True
        try:
            healed = await self._healer.heal(alert)
        except Exception as e:
            # Whatever it is, the admins have to be told of the alert.
            healed = Healed(waits=f"An unexpected {type(e).__name__}")
        if healed is None:
            return False
        self._became(alert, healed)
        return True

    def _wait(self, alerts: list[Alert]) -> None:
        for alert in alerts:
            if self._healer is not None and alert.event_id not in self._healed:
                self._became(alert, Healed(waits=f"There are {len(alerts)} roots in the room"))

    def _became(self, alert: Alert, healed: Healed) -> None:
        self._healed[alert.event_id] = healed
        self._channel.log_healed(alert, healed)

    async def _told(self, room_id: str, alerts: list[Alert]) -> bool:
        now = self._clock.now_ms()
        if self._channel.room is None:
            return True
        self._not_before = {r: ts for r, ts in self._not_before.items() if ts > now}
        if room_id in self._not_before:
            return False
        self._not_before[room_id] = now + _AGAIN_MS
        text = notice(alerts, await self._roots(room_id), self._api, self._healed)
        try:
            await self._channel.send(text)
        except Exception as e:
            self._channel.cannot_send(e)
            return False
        return True

    async def _roots(self, room_id: str) -> list[Root]:
        try:
            rejected = await self._listings.rejections(room_id, RejectionFilter(), _ONE)
            if rejected.total > _DIAGNOSED:
                return []
            return (await self._diagnostician.diagnose(room_id)).roots
        except Exception:
            # Whatever is wrong with the room, that it is should be told.
            return []
