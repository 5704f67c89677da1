"""`GET /alerts`: the roots that admins were told of."""

from __future__ import annotations

from http import HTTPStatus

import attr
from synapse.http.servlet import RestServlet
from synapse.http.site import SynapseRequest

from synapse_rejection_repair.domain.model import JsonDict
from synapse_rejection_repair.ports_watch import AlertReader
from synapse_rejection_repair.rest import params
from synapse_rejection_repair.rest.paths import pattern
from synapse_rejection_repair.rest.serialise import listing

ORDERS = ("alerted_ts", "first_ts", "room_id", "event_id", "cascade")


class AlertsServlet(RestServlet):
    """`GET /alerts`: the alerts, the newest first."""

    def __init__(self, base: str, alerts: AlertReader) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/alerts")
        self._alerts = alerts

    async def on_GET(self, request: SynapseRequest) -> tuple[int, JsonDict]:
        """Answers with a page of the list."""
        query = params.query(request, (*params.PAGE, "room_id"))
        page = params.page(query, ORDERS, newest_first=True)
        room_id = query.get("room_id")
        alerts = await self._alerts.page(page, None if room_id is None else params.room_id(room_id))
        return HTTPStatus.OK, listing("alerts", alerts, page, attr.asdict)
