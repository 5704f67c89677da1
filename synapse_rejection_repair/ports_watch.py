"""What the watch asks of the outer layers: the Protocols that `adapter` implements."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from synapse_rejection_repair.domain.healing import Healed
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.watch import Alert, Begun, Recorded, Rejection, Seen


class RejectionQueue(Protocol):
    """The rejections that this process was told of."""

    def take(self) -> list[Rejection]:
        """All that wait, the oldest first; they wait no more."""

    def put_back(self, rejections: Sequence[Rejection]) -> None:
        """Lets rejections wait that could not be written."""


class CauseReader(Protocol):
    """Reads what was recorded of rejections."""

    async def recorded(self, event_ids: Collection[str]) -> dict[str, Recorded]:
        """What was recorded of those of the events that were noticed."""


class AlertReader(Protocol):
    """Reads the alerts."""

    async def page(self, page: Page, room_id: str | None) -> Listing[Alert]:
        """The alerts, of one room where given."""


class WatchStore(CauseReader, AlertReader, Protocol):
    """Keeps rejections and alerts in the module's own tables."""

    async def record(self, rejections: Sequence[Rejection]) -> None:
        """Writes rejections with the roots that they follow.

        What was recorded of an event before stays as it is.
        """

    async def forget_oldest(self, room_id: str) -> None:
        """Forgets the oldest of a room's rejections, where there are too many.

        Those that there was an alert about stay.
        """

    async def seen(self, room_id: str) -> list[Seen]:
        """What is recorded of a room."""

    async def rooms_since(self, since_ts: int) -> list[str]:
        """The rooms in which something was recorded since then, in milliseconds."""

    async def raise_alerts(self, room_id: str, begun: Sequence[Begun], now_ms: int) -> None:
        """Writes an alert for each of the cascades that has none, if its root is still rejected.

        Forgets the oldest of the room's alerts that were told of, where there are too many.
        """

    async def unannounced(self) -> list[Alert]:
        """The alerts that admins were not told of yet, the oldest first."""

    async def repaired_by(self, event_id: str, repair_id: str) -> None:
        """Notes the repair of an alert's root that was begun without an admin."""

    async def announced(self, event_ids: Iterable[str], now_ms: int) -> None:
        """Notes that admins were told of alerts."""


class AlertChannel(Protocol):
    """Tells admins of alerts.

    Attributes:
        room: the room that messages go to; `None` if there is none.
    """

    room: str | None

    def log(self, alert: Alert) -> None:
        """Writes an alert into the log and counts it in the metrics."""

    def log_healed(self, alert: Alert, healed: Healed) -> None:
        """Says in the log and in the metrics what became of an alert's root without an admin."""

    async def send(self, text: str) -> None:
        """Sends a message to the admins; raises whatever the server has against it."""

    def cannot_send(self, error: Exception) -> None:
        """Says in the log that a message could not be sent."""
