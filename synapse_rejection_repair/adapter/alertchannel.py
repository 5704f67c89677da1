"""Telling admins of alerts: in the log, in the metrics, and in a room."""

from __future__ import annotations

import logging

from prometheus_client import Counter
from synapse.api.constants import EventTypes, Membership
from synapse.event_auth import get_user_power_level
from synapse.metrics import SERVER_NAME_LABEL
from synapse.module_api import ModuleApi
from synapse.server import HomeServer
from typing_extensions import override

from synapse_rejection_repair.config import AlertConfig
from synapse_rejection_repair.domain.healing import Healed
from synapse_rejection_repair.domain.watch import Alert
from synapse_rejection_repair.errors import NobodyWrites
from synapse_rejection_repair.ports_watch import AlertChannel

# A name of its own, so that a log configuration can send alerts elsewhere.
logger = logging.getLogger("synapse_rejection_repair.alerts")

alerts_counter = Counter(
    "synapse_rejection_repair_alerts",
    "Roots whose cascade of rejected events has begun",
    labelnames=[SERVER_NAME_LABEL],
)
healed_counter = Counter(
    "synapse_rejection_repair_auto_repairs",
    "Roots with an alert, by whether their repair was begun without an admin or waits for one",
    labelnames=["outcome", SERVER_NAME_LABEL],
)
rejections_counter = Counter(
    "synapse_rejection_repair_rejections_seen",
    "Rejected events that this process was told of, by the check that they failed",
    labelnames=["check", SERVER_NAME_LABEL],
)


class SynapseAlertChannel(AlertChannel):
    """The log and the metrics of this process, and a room of the server's.

    Args:
        api: Synapse's door for modules.
        hs: the homeserver behind it.
        config: where messages go to.
    """

    def __init__(self, api: ModuleApi, hs: HomeServer, config: AlertConfig) -> None:
        self._api = api
        self._sender = config.sender
        self.room = config.room
        self._server_name = hs.hostname
        self._count = alerts_counter.labels(**{SERVER_NAME_LABEL: hs.hostname})

    @override
    def log(self, alert: Alert) -> None:
        self._count.inc()
        logger.error(
            "A cascade of rejections has begun in room %s: %i events that follow %s were rejected."
            " It was rejected itself because: %s",
            alert.room_id,
            alert.cascade,
            alert.event_id,
            alert.error or "(not noticed by this module)",
        )

    @override
    def log_healed(self, alert: Alert, healed: Healed) -> None:
        outcome = "waits" if healed.repair_id is None else "begun"
        healed_counter.labels(**{"outcome": outcome, SERVER_NAME_LABEL: self._server_name}).inc()
        if healed.repair_id is None:
            logger.warning(
                "%s in room %s waits for an admin: %s", alert.event_id, alert.room_id, healed.waits
            )
        else:
            logger.warning(
                "%s in room %s needed no admin: its repair %s is %s",
                alert.event_id,
                alert.room_id,
                healed.repair_id,
                healed.status,
            )

    async def check(self) -> None:
        """Says in the log if messages could not be sent: better now than in an incident."""
        if self.room is not None:
            try:
                await self._writer(self.room)
            except NobodyWrites as e:
                logger.warning("%s", e)

    async def _writer(self, room: str) -> str:
        """Who writes into a room: who is configured to, or else the local user who may do most.

        Raises:
            NobodyWrites: they are not in the room.
        """
        wanted = [(EventTypes.Create, ""), (EventTypes.PowerLevels, ""), (EventTypes.Member, None)]
        state = await self._api.get_room_state(room, wanted)
        here = [
            user_id
            for (type_, user_id), event in state.items()
            if type_ == EventTypes.Member
            and event.membership == Membership.JOIN
            and self._api.is_mine(user_id)
            and self._sender in (None, user_id)
        ]
        if not here:
            raise NobodyWrites(room, self._sender)
        return max(sorted(here), key=lambda user_id: get_user_power_level(user_id, state))

    @override
    async def send(self, text: str) -> None:
        assert self.room is not None
        await self._api.create_and_send_event_into_room(
            {
                "type": EventTypes.Message,
                "room_id": self.room,
                "sender": await self._writer(self.room),
                # Not a notice, of which push rules tell nobody. The mentions keep what others
                # have a say in from mentioning anybody.
                "content": {"msgtype": "m.text", "body": text, "m.mentions": {}},
            }
        )

    @override
    def cannot_send(self, error: Exception) -> None:
        logger.warning(
            "An alert cannot be sent to 'alert.room' %s, and will be tried again: %s",
            self.room,
            error,
        )
