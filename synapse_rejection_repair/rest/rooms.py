"""`GET /rooms` and what there is to know about one room."""

from __future__ import annotations

from http import HTTPStatus

import attr
from synapse.http.servlet import RestServlet
from synapse.http.site import SynapseRequest

from synapse_rejection_repair.config import MOST_PEERS
from synapse_rejection_repair.diagnosis import Diagnosis, Diagnostician
from synapse_rejection_repair.domain.health import healthy
from synapse_rejection_repair.domain.listing import RejectionFilter
from synapse_rejection_repair.domain.model import JsonDict
from synapse_rejection_repair.ports import Clock, ListingReader, RoomReader
from synapse_rejection_repair.rest import params
from synapse_rejection_repair.rest.paths import pattern
from synapse_rejection_repair.rest.serialise import MOST_SHOWN, judged, listing, peer_report

ROOM_ORDERS = ("room_id", "name", "room_version", "rejected_events", "first_ts", "last_ts")
REJECTION_ORDERS = ("origin_server_ts", "depth", "event_id", "type", "sender", "reason")


class RoomsServlet(RestServlet):
    """`GET /rooms`: the rooms with rejected events."""

    def __init__(self, base: str, listings: ListingReader) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/rooms")
        self._listings = listings

    async def on_GET(self, request: SynapseRequest) -> tuple[int, JsonDict]:
        """Answers with a page of the list."""
        page = params.page(params.query(request, params.PAGE), ROOM_ORDERS)
        rooms = await self._listings.rooms(page)
        return HTTPStatus.OK, listing("rooms", rooms, page, attr.asdict)


class RejectionsServlet(RestServlet):
    """`GET /rooms/{room_id}/rejections`: a room's rejected events."""

    def __init__(self, base: str, rooms: RoomReader, listings: ListingReader) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/rooms/(?P<room_id>[^/]+)/rejections")
        self._rooms = rooms
        self._listings = listings

    async def on_GET(self, request: SynapseRequest, room_id: str) -> tuple[int, JsonDict]:
        """Answers with a page of the list."""
        room_id = params.room_id(room_id)
        filters = ("since_ts", "until_ts", "type", "sender", "reason")
        query = params.query(request, (*params.PAGE, *filters))
        page = params.page(query, REJECTION_ORDERS)
        since_ts = params.integer(query, "since_ts", 0, params.MAX_TS)
        until_ts = params.integer(query, "until_ts", 0, params.MAX_TS)
        params.require_in_order(since_ts, until_ts)
        wanted = RejectionFilter(
            since_ts, until_ts, query.get("type"), query.get("sender"), query.get("reason")
        )
        await self._rooms.require_room(room_id)
        rejections = await self._listings.rejections(room_id, wanted, page)
        return HTTPStatus.OK, listing("rejections", rejections, page, attr.asdict)


class DiagnosisServlet(RestServlet):
    """`GET /rooms/{room_id}/diagnosis`: the roots of a room's rejections."""

    def __init__(self, base: str, diagnostician: Diagnostician, clock: Clock) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/rooms/(?P<room_id>[^/]+)/diagnosis")
        self._diagnostician = diagnostician
        self._clock = clock

    async def on_GET(self, request: SynapseRequest, room_id: str) -> tuple[int, JsonDict]:
        """Answers with the diagnosis."""
        query = params.query(request, ("peers",))
        peers = params.integer(query, "peers", 0, MOST_PEERS)
        diagnosis = await self._diagnostician.diagnose(params.room_id(room_id), peers or 0)
        return HTTPStatus.OK, await self._clock.in_thread(_diagnosis, diagnosis)


def _diagnosis(diagnosis: Diagnosis) -> JsonDict:
    return {
        "rejected_events": diagnosis.rejected_events,
        "roots": [
            {
                **judged(root.node, root.verdict),
                "cascade": attr.asdict(root.cascade),
                "recorded": attr.asdict(root.recorded) if root.recorded else None,
                "peers": peer_report(root.peers) if root.peers else None,
            }
            for root in diagnosis.roots
        ],
        "roots_total": diagnosis.roots_total,
        "still_flowing": diagnosis.still_flowing,
        "soft_failed_events": len(diagnosis.soft_failed),
        "soft_failed": [
            judged(node, verdict) for node, verdict in diagnosis.soft_failed[:MOST_SHOWN]
        ],
    }


class HealthServlet(RestServlet):
    """`GET /rooms/{room_id}/health`: what is wrong with a room."""

    def __init__(self, base: str, diagnostician: Diagnostician) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/rooms/(?P<room_id>[^/]+)/health")
        self._diagnostician = diagnostician

    async def on_GET(self, request: SynapseRequest, room_id: str) -> tuple[int, JsonDict]:
        """Answers with the problems found."""
        params.query(request, ())
        problems = await self._diagnostician.health(params.room_id(room_id))
        return HTTPStatus.OK, {
            "healthy": healthy(problems),
            "problems": [
                {
                    "check": p.check.value,
                    "count": p.count,
                    "events": list(p.events),
                    "detail": p.detail,
                    "repairable": p.repairable,
                }
                for p in problems
            ],
        }
