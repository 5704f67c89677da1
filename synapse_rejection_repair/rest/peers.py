"""`POST /events/{event_id}/peers`: what other servers say of an event."""

from __future__ import annotations

from http import HTTPStatus

from synapse.http.servlet import RestServlet
from synapse.http.site import SynapseRequest

from synapse_rejection_repair.config import MOST_PEERS
from synapse_rejection_repair.domain.model import JsonDict
from synapse_rejection_repair.peers import PeerSurvey
from synapse_rejection_repair.rest import params, serialise
from synapse_rejection_repair.rest.paths import pattern


class PeersServlet(RestServlet):
    """`POST /events/{event_id}/peers`: asks other servers, and changes nothing."""

    def __init__(self, base: str, survey: PeerSurvey) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/events/(?P<event_id>[^/]+)/peers")
        self._survey = survey

    async def on_POST(self, request: SynapseRequest, event_id: str) -> tuple[int, JsonDict]:
        """Answers with what they say."""
        event_id = params.event_id("event_id", event_id)
        params.query(request, ())
        body = params.body(request, ("peers",))
        count = params.whole(body, "peers", 0, MOST_PEERS)
        wanted = self._survey.most if count is None else count
        room_id, report = await self._survey.of_event(event_id, wanted)
        return HTTPStatus.OK, {
            "event_id": event_id,
            "room_id": room_id,
            "peers": serialise.peer_report(report),
        }
